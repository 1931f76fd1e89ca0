"""What a reader of one form hands over: rows of named values, and what is to be said of how they were read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Row = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Rows of one or several runs, in the order of the source."""

    form: str
    """Its name, for a person."""
    rows: Sequence[Row]
    notes: tuple[str, ...] = ()
    name: str = ""
    """Of the run, where a source holds several."""
    unread: str = ""
    """Of a loss of which no value is a number: the first of them and where it stands, in words."""
