"""Where a number stands in JSON, in words that a data file can hold: of the artefact's claims, the paper's numbers."""

from __future__ import annotations

import re
from typing import Any

from harness.system.errors import HarnessError


def look_up(content: Any, at: str) -> Any:
    """The value at a place. Raises HarnessError where nothing stands there.

    Keys parted by dots; `[key=value,…]` is the one entry of a list, `count[key=value,…]` how many entries there are of
    the kind (`key` may be several, parted by dots), `length` how many in all.
    """
    for word in filter(None, re.split(r"\.(?![^\[]*\])", at)):
        try:
            if word == "length":
                content = len(content)
            elif word.endswith("]"):
                name, _, conditions = word.rstrip("]").partition("[")
                wanted = [pair.split("=", 1) for pair in conditions.split(",")]
                found = [
                    one for one in content if all(str(look_up(one, key)) == value for key, value in wanted)
                ]
                if name == "count":
                    content = len(found)
                else:
                    (content,) = found
            else:
                content = content[word]
        except (KeyError, TypeError, ValueError) as error:
            raise HarnessError(f"nothing stands at {at!r} (looked for {word!r})") from error
    return content
