"""Which bytes of a storage an access touches, exactly for strided views, and which bytes were ever written.

A footprint is a run of bytes repeated along strides. Whether two of them share a byte is a bounded linear
Diophantine question; it is answered by a gcd test and a pruned search, so that two interleaved column views of one
matrix do not conflict.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

SEARCH_NODES = 20_000  # beyond these two footprints are taken to overlap, which errs towards reporting
RUNS = 4_096  # beyond these a strided write counts as its whole interval, which errs towards silence


@dataclass(frozen=True, slots=True)
class Footprint:
    """`run` bytes at `start`, repeated `count` times at `stride` bytes for each of `dims`, innermost first."""

    start: int
    run: int
    dims: tuple[tuple[int, int], ...] = ()
    end: int = field(init=False, compare=False)  # one past the last byte

    def __post_init__(self) -> None:
        end = self.start + self.run + sum((count - 1) * stride for count, stride in self.dims)
        object.__setattr__(self, "end", end)

    def runs(self) -> Iterator[tuple[int, int]]:
        """The byte intervals [low, high), ascending for views whose dims nest."""
        yield from _runs(self.start, self.run, self.dims)

    def part(self, low: int, high: int) -> Iterator[tuple[int, int]]:
        """The byte intervals of its own bytes [low, high), counted in ascending order."""
        before = 0
        for start, end in self.runs() if self.run_count <= RUNS else [(self.start, self.end)]:
            first, last = max(low, before), min(high, before + end - start)
            if first < last:
                yield start + first - before, start + last - before
            before += end - start

    @property
    def run_count(self) -> int:
        return math.prod(count for count, _ in self.dims)

    @property
    def nbytes(self) -> int:
        """How many bytes it touches."""
        return self.run * self.run_count


def _runs(start: int, run: int, dims: tuple[tuple[int, int], ...]) -> Iterator[tuple[int, int]]:
    if not dims:
        yield start, start + run
        return
    count, stride = dims[-1]
    for index in range(count):
        yield from _runs(start + index * stride, run, dims[:-1])


@lru_cache(maxsize=65536)
def footprint(
    offset: int, sizes: tuple[int, ...], strides: tuple[int, ...], itemsize: int
) -> Footprint | None:
    """The footprint of a view: `offset` and `strides` in elements, `itemsize` in bytes; None for an empty view."""
    if 0 in sizes:
        return None
    dims = sorted((stride * itemsize, size) for size, stride in zip(sizes, strides, strict=True))
    run, kept = itemsize, list[tuple[int, int]]()
    for stride, count in dims:
        if count == 1 or stride == 0:
            continue
        if not kept and stride <= run:
            run += (count - 1) * stride
        elif kept and stride == kept[-1][0] * kept[-1][1]:
            kept[-1] = (kept[-1][0] * count, kept[-1][1])
        else:
            kept.append((count, stride))
    return Footprint(offset * itemsize, run, tuple(kept))


def overlap(one: Footprint, other: Footprint) -> bool:
    """Whether the two share a byte. Exact up to SEARCH_NODES search steps, then True."""
    if one.start >= other.end or other.start >= one.end:
        return False
    if not one.dims and not other.dims:
        return True
    return _strided_overlap(one, other)


@lru_cache(maxsize=65536)
def _strided_overlap(one: Footprint, other: Footprint) -> bool:
    """Solve start₁ + Σ iₖsₖ + x = start₂ + Σ jₖtₖ + y for 0 ≤ x < run₁, 0 ≤ y < run₂ within the counts."""
    low, high = other.start - one.start - one.run + 1, other.start - one.start + other.run - 1
    terms: dict[int, tuple[int, int]] = {}  # stride → range of its multiplier; equal strides join
    for count, stride in one.dims:
        least, most = terms.get(stride, (0, 0))
        terms[stride] = (least, most + count - 1)
    for count, stride in other.dims:
        least, most = terms.get(stride, (0, 0))
        terms[stride] = (least - count + 1, most)
    ordered = sorted(((s, *bounds) for s, bounds in terms.items()), reverse=True)
    return _reachable(ordered, low, high)


def _reachable(terms: Sequence[tuple[int, int, int]], low: int, high: int) -> bool:
    """Whether Σ kᵢ·strideᵢ with kᵢ in [leastᵢ, mostᵢ] can land in [low, high]; strides descend."""
    gcds = [math.gcd(*(stride for stride, _, _ in terms[i:])) for i in range(len(terms))]
    rest = [
        (
            sum(stride * least for stride, least, _ in terms[i:]),
            sum(stride * most for stride, _, most in terms[i:]),
        )
        for i in range(len(terms) + 1)
    ]
    budget = SEARCH_NODES
    stack = [(0, low, high)]
    while stack:
        budget -= 1
        if budget < 0:
            return True
        depth, low, high = stack.pop()
        if high < rest[depth][0] or low > rest[depth][1]:
            continue
        if depth == len(terms):
            return True
        if -(-low // gcds[depth]) * gcds[depth] > high:  # no multiple of the gcd lies in the interval
            continue
        stride, least, most = terms[depth]
        first = max(least, -(-(low - rest[depth + 1][1]) // stride))
        last = min(most, (high - rest[depth + 1][0]) // stride)
        stack += [(depth + 1, low - k * stride, high - k * stride) for k in range(first, last + 1)][:budget]
    return False


def covers(outer: Footprint, inner: Footprint) -> bool:
    """Whether every byte of `inner` certainly lies in `outer` (dense `outer`, or the very same footprint)."""
    return outer == inner or (
        not outer.dims and outer.start <= inner.start and inner.end <= outer.start + outer.run
    )


class Written:
    """The bytes of one storage that some op has written, as sorted disjoint intervals."""

    __slots__ = ("full", "highs", "lows", "nbytes")

    def __init__(self, nbytes: int, full: bool = False) -> None:
        self.nbytes = nbytes
        self.full = full or nbytes == 0
        self.lows: list[int] = []
        self.highs: list[int] = []

    def add(self, view: Footprint) -> None:
        """Mark a write; one of more than RUNS runs counts as its whole interval."""
        if self.full:
            return
        if view.run_count > RUNS:
            self._add(view.start, view.end)
        else:
            for low, high in view.runs():
                self._add(low, high)
        self.full = len(self.lows) == 1 and self.lows[0] <= 0 and self.highs[0] >= self.nbytes

    def remove(self, low: int, high: int) -> None:
        """Mark bytes as not written after all."""
        if low >= high:
            return
        kept: list[tuple[int, int]] = []
        for start, end in [(0, self.nbytes)] if self.full else zip(self.lows, self.highs, strict=True):
            kept += [(start, min(end, low)), (max(start, high), end)]
        self.lows = [start for start, end in kept if start < end]
        self.highs = [end for start, end in kept if start < end]
        self.full = False

    def gaps(self, view: Footprint) -> list[tuple[int, int]]:
        """All that nothing has written of `view`, counted in its own bytes in ascending order."""
        found, before = list[tuple[int, int]](), 0
        for low, high in view.runs() if view.run_count <= RUNS else [(view.start, view.end)]:
            at = low
            while gap := self._gap(at, high):
                found.append((before + gap[0] - low, before + gap[1] - low))
                at = gap[1]
            before += high - low
        return found

    def missing(self, view: Footprint) -> tuple[int, int] | None:
        """The first byte interval of `view` that nothing has written; None where all was."""
        if self.full:
            return None
        intervals = view.runs() if view.run_count <= RUNS else iter(((view.start, view.end),))
        return next((gap for low, high in intervals if (gap := self._gap(low, high))), None)

    def _add(self, low: int, high: int) -> None:
        first = bisect.bisect_left(self.highs, low)
        last = bisect.bisect_right(self.lows, high)
        if first < last:
            low, high = min(low, self.lows[first]), max(high, self.highs[last - 1])
        self.lows[first:last] = [low]
        self.highs[first:last] = [high]

    def _gap(self, low: int, high: int) -> tuple[int, int] | None:
        at = bisect.bisect_right(self.lows, low) - 1
        if at >= 0 and self.highs[at] > low:
            low = self.highs[at]
        if low >= high:
            return None
        following = self.lows[at + 1] if at + 1 < len(self.lows) else high
        return low, min(high, following)
