"""Policies that need no clock: side streams first, the default stream first, and random orders."""

from __future__ import annotations

import random
from typing import Any

from harness.device.schedule import Op, Policy, Schedule


class SideFirst(Policy):
    """Side streams run as soon as they may, the default stream as late as it may: a side stream reads too early."""

    def starts(self, op: Op) -> bool:
        return op.stream.id != 0

    def rank(self, op: Op) -> Any:
        return -op.stream.id


class MainFirst(Policy):
    """The default stream runs as soon as it may, side streams as late as they may: side work comes too late."""

    def starts(self, op: Op) -> bool:
        return op.stream.id == 0


class RandomOrder(Policy):
    """At each collective every stream may catch up with one of its recent points; priorities are drawn anew."""

    REACH = 8  # how many collectives back a stream may catch up with
    CHANCE = 0.5  # of a stream to move at one collective

    def __init__(self, seed: int | str) -> None:
        self.random = random.Random(seed)
        self.marks: list[dict[int, int]] = []  # per recent collective: stream id → ops issued
        self.priority: dict[int, float] = {}

    def rank(self, op: Op) -> Any:
        return self.priority.get(op.stream.id, 1.0), op.stream.id

    def at_collective(self, schedule: Schedule) -> None:
        self.marks = [*self.marks[1 - self.REACH :], {s.id: s.issued for s in schedule.streams}]
        # The number of draws depends on the number of streams alone, so that ranks stay in step.
        self.priority = {stream.id: self.random.random() for stream in schedule.streams}
        for stream in schedule.streams:
            moves, mark = self.random.random() < self.CHANCE, self.random.randrange(self.REACH)
            if moves:
                schedule.run_until(stream, self.marks[-1 - mark % len(self.marks)].get(stream.id, 0))
