"""Every unordered pair of ops of one rank, and what is ordered among their ops: of them classes are made."""

from __future__ import annotations

from typing import Any

from harness.race.clocks import Clock
from harness.race.findings import HOST, Touch


class Pairs:
    """Filled by the analysis, op by op; accesses of the host are known as ~index."""

    def __init__(self) -> None:
        self.pairs: set[tuple[int, int]] = set()
        self.times: dict[int, tuple[int, int, Clock]] = {}  # op → its stream, its place there, its clock

    def issued(self, index: int, stream: int, time: int, clock: Clock) -> None:
        self.times[_known_as(index, stream)] = stream, time, dict(clock)

    def add(self, first: Touch, second: Touch) -> None:
        if first.stream > HOST:  # what the host did is before all that was issued since
            self.pairs.add((first.op.index, _known_as(second.op.index, second.stream)))

    def content(self) -> dict[str, Any]:
        """As JSON: the pairs, and for each of their ops those that happen before it."""
        ops = sorted({op for pair in self.pairs for op in pair})
        before = {op: [other for other in ops if other != op and self._before(other, op)] for op in ops}
        return {"pairs": sorted(self.pairs), "before": before}

    def _before(self, one: int, other: int) -> bool:
        stream, time, _ = self.times[one]
        return self.times[other][2].get(stream, 0) >= time


def _known_as(index: int, stream: int) -> int:
    return index if stream > HOST else ~index
