"""Shrinks a list of scheduling decisions to the few that matter."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

T = TypeVar("T")


def minimise(decisions: Sequence[T], fails: Callable[[Sequence[T]], bool], budget: int = 40) -> list[T]:
    """A sublist of `decisions`, in order, that still `fails` and of which no part that was tried can be left out.

    `decisions` as a whole must fail. After at most `budget` calls the best so far is returned, which still fails.
    Zeller and Hildebrandt, "Simplifying and Isolating Failure-Inducing Input", 2002 (ddmin).
    """
    kept, parts = list(decisions), 2
    while len(kept) >= 2 and budget > 0:
        for candidate in _candidates(kept, parts):
            if budget <= 0:
                return kept
            budget -= 1
            if fails(candidate):
                parts = 2 if len(candidate) <= len(kept) // parts + 1 else max(2, parts - 1)
                kept = candidate
                break
        else:
            if parts >= len(kept):
                return kept
            parts = min(len(kept), 2 * parts)
    return kept


def _candidates(kept: list[T], parts: int) -> list[list[T]]:
    """Each part alone, then everything but each part."""
    size = -(-len(kept) // parts)
    cuts = [(start, min(start + size, len(kept))) for start in range(0, len(kept), size)]
    alone = [kept[low:high] for low, high in cuts]
    without = [kept[:low] + kept[high:] for low, high in cuts] if len(cuts) > 2 else []
    return [candidate for candidate in (*alone, *without) if candidate and len(candidate) < len(kept)]
