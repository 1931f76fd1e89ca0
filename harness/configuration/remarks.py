"""What is to be said of a configuration, each with the key it is about and what DeepSpeed makes of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["refused", "ignored", "legacy", "type", "auto", "syntax", "assumed", "facts"]
"""`refused`: training does not start; `ignored`: DeepSpeed does as if it were not there; the rest informs."""


@dataclass(frozen=True)
class Remark:
    kind: Kind
    key: str
    """Dotted path; empty where it is about the whole."""
    text: str
    """One sentence, without a full stop."""

    def __str__(self) -> str:
        return self.text
