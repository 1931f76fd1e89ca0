"""All orders of conflicting pairs that a program's schedules can have: each is one class, one schedule stands for it.

Two schedules that run every conflicting pair in the same order give the same values (Mazurkiewicz traces; Flanagan and
Godefroid, "Dynamic Partial-Order Reduction for Model Checking Software", POPL 2005). What orders ops here are streams,
events and host waits alone, never values, so that one analysed execution lists all pairs, and the classes are the ways
to direct each pair that close no cycle with what is ordered anyway. Where a program looks at values and then issues
other ops, that no longer holds, and is said.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

Pair = tuple[int, int]  # op indices in the order of issue; of a host access ~index
Before = Mapping[int, frozenset[int]]  # op → the ops of some pair that happen before it anyway


@dataclass(frozen=True)
class Class:
    """One way to direct all pairs: those that run the other way round than issued, and the others."""

    swapped: tuple[Pair, ...]
    kept: tuple[Pair, ...]


def classes(pairs: Sequence[Pair], before: Before, limit: int) -> tuple[list[Class], bool]:
    """At most `limit` classes, the order of issue first and those with fewest swaps next; whether these are all."""
    pairs = sorted(set(pairs))
    nodes = {op for pair in pairs for op in pair}
    after = {op: {later for later in nodes if op in before.get(later, ())} for op in nodes}
    found = list(islice(_directed(pairs, 0, after, ()), limit + 1))
    return sorted(found[:limit], key=lambda one: len(one.swapped)), len(found) <= limit


def _directed(
    pairs: Sequence[Pair], at: int, after: dict[int, set[int]], swapped: tuple[Pair, ...]
) -> Iterator[Class]:
    """All ways to direct the pairs from `at` on; `after` holds for each op all that comes after it so far."""
    if at == len(pairs):
        chosen = set(swapped)
        yield Class(swapped, tuple(pair for pair in pairs if pair not in chosen))
        return
    first, second = pairs[at]
    if first not in after[second]:
        yield from _directed(pairs, at + 1, _with(after, first, second), swapped)
    if second not in after[first]:
        yield from _directed(pairs, at + 1, _with(after, second, first), (*swapped, pairs[at]))


def _with(after: dict[int, set[int]], one: int, other: int) -> dict[int, set[int]]:
    """The same with `one` before `other`, closed under what follows from it."""
    if other in after[one]:
        return after
    new = {other} | after[other]
    return {op: later | new if op == one or one in later else later for op, later in after.items()}
