"""Where a number stands in JSON, in words that a data file can hold: of the artefact's claims, the paper's numbers."""

from __future__ import annotations

import re
from typing import Any

from harness.system.errors import HarnessError


def look_up(content: Any, at: str) -> Any:
    """The value at a place: keys parted by dots, `[key=value,…]` the one entry of a list, `length`. HarnessError."""
    for word in filter(None, re.split(r"\.(?![^\[]*\])", at)):
        try:
            if word == "length":
                content = len(content)
            elif word.startswith("["):
                wanted = dict(pair.split("=", 1) for pair in word.strip("[]").split(","))
                (content,) = (
                    one for one in content if all(str(one[key]) == value for key, value in wanted.items())
                )
            else:
                content = content[word]
        except (KeyError, TypeError, ValueError) as error:
            raise HarnessError(f"nothing stands at {at!r} (looked for {word!r})") from error
    return content
