"""The policies of a job: those that runs have, and three of the analysis: scripted, ordered and busy."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

from harness.clock.policy import policy_named
from harness.device.observe import Observer
from harness.device.schedule import Eager, Op, Policy, Schedule
from harness.race.job import Flip, Job


def policy_of(job: Job, begun: Callable[[], None]) -> Policy:
    """The policy that a job names; `busy` calls `begun` when the program starts to run. Raises HarnessError."""
    if job.policy == "busy":
        return Busy(begun)
    if job.policy == "scripted":
        return Scripted(job.flips)
    if job.policy == "ordered":
        return Ordered(job.flips)
    return policy_named(job.policy, job.program.run["seed"] if job.program.run is not None else job.seed)


class Scripted(Policy):
    """Everything runs as soon as it may, in the order of issue, but for the flips.

    A held op, and with it all that comes after it on its stream or waits for it, stays back until the op that it is
    held for has run, or until the host waits for it: the schedule is legal whatever the flips ask for. Ops are
    counted alike on all ranks of a program that does the same on all ranks, so all hold alike.
    """

    def __init__(self, flips: Iterable[Flip]) -> None:
        self.until: defaultdict[int, set[int]] = defaultdict(set)
        for flip in flips:
            self.until[flip.hold].add(flip.until)
        self.awaited = set().union(*self.until.values())
        self.met: dict[int, Op] = {}

    def starts(self, op: Op) -> bool:
        if op.index in self.awaited:
            self.met[op.index] = op
        return not self._held(op)

    def rank(self, op: Op) -> Any:
        return self._held(op), op.index

    def _held(self, op: Op) -> bool:
        waits_for = self.until.get(op.index)
        return waits_for is not None and not all(self._ran(index) for index in waits_for)

    def _ran(self, index: int) -> bool:
        op = self.met.get(index)
        return op is not None and op.stream.done > op.position


class Ordered(Scripted):
    """The same, of flips that direct every conflicting pair: on all streams, what no flip holds goes first."""

    ahead = True

    def begin(self, schedule: Schedule) -> None:
        self.done = Done()
        schedule.observers.append(self.done)

    def _ran(self, index: int) -> bool:
        return index in self.done.ops


class Done(Observer):
    """Which ops have run."""

    def __init__(self) -> None:
        self.ops: set[int] = set()

    def on_run(self, index: int) -> None:
        self.ops.add(index)


class Busy(Eager):
    """For the analysis: ops run as issued, yet the device always seems to lag behind the host.

    What a query has shown to be done orders as a wait does. A device that is never behind would hide the races of
    every program that asks. `begun` is called when the program starts to run under it.
    """

    lags = True

    def __init__(self, begun: Callable[[], None] = lambda: None) -> None:
        self.begun = begun

    def begin(self, schedule: Schedule) -> None:
        self.begun()
