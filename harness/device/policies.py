"""Policies that need no clock: side streams first, the default stream first, random orders, random priorities."""

from __future__ import annotations

import random
from typing import Any

from harness.device.observe import HOST
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


class Priorities(Policy):
    """PCT: the streams and the host have random priorities, of which `depth` - 1 fall at random points.

    Burckhardt, Kothari, Musuvathi and Nagarakatte, "A Randomized Scheduler with Probabilistic Guarantees of Finding
    Bugs", ASPLOS 2010. The host is a thread like the streams: what has a higher priority runs as soon as it is issued,
    what has a lower one once the host waits. A point is one op, as the device comes to it or as the host has issued it;
    there are 2·`ops` of them, and ops count alike on all ranks. What is promised: harness.race.searched.bound.
    """

    ahead = True

    def __init__(self, seed: int | str, depth: int = 2, ops: int = 1000) -> None:
        self.seed, self.depth = seed, depth
        points = random.Random(f"pct/{seed}").sample(range(2 * ops), min(depth - 1, 2 * ops))
        self.falls = {
            point: low for low, point in enumerate(points) if point < ops
        }  # op → priority of its stream
        self.host_falls = sorted((point - ops, low) for low, point in enumerate(points) if point >= ops)
        self.priorities: dict[int, float] = {}
        self.machine: Any = None

    def begin(self, schedule: Schedule) -> None:
        self.machine = schedule

    def starts(self, op: Op) -> bool:
        while self.host_falls and self.machine is not None and self.machine.ops > self.host_falls[0][0]:
            self.priorities[HOST] = self.host_falls.pop(0)[1]
        return self._of(op) > self._priority(HOST)

    def rank(self, op: Op) -> Any:
        return -self._of(op), op.stream.id

    def _of(self, op: Op) -> float:
        if op.index in self.falls:
            self.priorities[op.stream.id] = self.falls.pop(op.index)
        return self._priority(op.stream.id)

    def _priority(self, thread: int) -> float:
        """The priority of a stream or the host; drawn by its number, so that ranks agree whenever they meet it."""
        if thread not in self.priorities:
            self.priorities[thread] = self.depth + random.Random(f"pct/{self.seed}/{thread}").random()
        return self.priorities[thread]
