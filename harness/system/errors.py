"""What goes wrong, in words for the person who has to mend it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class HarnessError(ValueError):
    """Bad input: one sentence with what is wrong, where (file and key) and what to do. Exit code 2."""


class RunFailed(RuntimeError):
    """A run ended without its final record. Exit code 1."""


MANY = 20


def nearest(word: str, valid: Iterable[str]) -> str:
    """`did you mean 'x'?` where a valid word lies near, and the valid words, unless they are many and one lies near."""
    words = sorted(valid)
    close = difflib.get_close_matches(word, words, n=1)
    if close and len(words) > MANY:
        return f"did you mean {close[0]!r}?"
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"{hint}Valid: {', '.join(words)}"
