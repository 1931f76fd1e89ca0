"""Deferred ops, the policy that chooses among those that may run, and the loop that runs them.

A policy never breaks an order that the program asked for: it chooses only among ops that are ready, that is, ops at
the head of their queue with everything that they wait for done.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any

from harness.device.errors import DeviceError
from harness.device.observe import Collective, Observer
from harness.device.torch_private import below_dispatch

Flight = Callable[[], object]  # ends an op that has started: waits for it and writes its results
Run = Callable[[], Flight | None]


class Op:
    """A deferred op, or a wait (`run` is None), at its position in its stream.

    `run` may only start the op and return what ends it, which is called before anything that waits for the op.
    """

    __slots__ = ("after", "collective", "index", "name", "position", "run", "stream")

    def __init__(
        self,
        stream: Queue,
        name: str,
        run: Run | None,
        index: int = -1,
        after: tuple[Queue, int] | None = None,
        collective: Collective | None = None,
    ) -> None:
        self.stream, self.name, self.run, self.index = stream, name, run, index
        self.after, self.collective = after, collective
        self.position = stream.issued

    def ready(self) -> bool:
        return self.after is None or self.after[0].done >= self.after[1]


class Queue:
    """What a stream is to the schedule: a FIFO of ops, and how far it has come."""

    def __init__(self, number: int) -> None:
        self.id = number
        self.pending: deque[Op] = deque()
        self.in_flight: deque[tuple[int, Flight]] = deque()  # started, results not yet in device memory
        self.issued = 0
        self.done = 0
        self.seen = 0  # how far the host has waited


class Policy:
    """Base of all policies: nothing runs before something waits for it, then in the order of stream creation.

    To add one (a cost model's clock, a scripted schedule), override `starts` and `rank`. Every rank must take the
    same decisions about collectives, or real collectives wait for each other for ever: decide by what is equal on
    all ranks (stream, collective count), and draw random numbers in `at_collective` alone, where all ranks stand at
    the same point.
    """

    immediate = False  # True: every op runs as it is issued; nothing is ever deferred
    lags = False  # True: a query finds an event pending until the host has waited for it, as on a busy device
    ahead = False  # True: of ops that start unasked, and while the host waits, the lowest rank of all streams is first

    def starts(self, op: Op) -> bool:
        """Whether a ready op runs although nothing waits for it yet."""
        return False

    def rank(self, op: Op) -> Any:
        """Sort key among ready ops that must run; the lowest goes first."""
        return op.stream.id

    def at_collective(self, schedule: Schedule) -> None:
        """Called after each collective is issued."""

    def begin(self, schedule: Schedule) -> None:
        """Called when the schedule starts to use the policy."""

    def widen(self, schedule: Schedule, needed: dict[Queue, int]) -> dict[Queue, int]:
        """What runs when `needed` (stream → position) must: that, and whatever the policy puts before it."""
        return needed


class Eager(Policy):
    """Each op runs when it is issued: the order of plain CPU."""

    immediate = True


class Schedule:
    """All streams of one rank and the policy that orders them; observers are told what ran."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.streams: list[Queue] = []
        self.observers: list[Observer] = []

    def use_policy(self, policy: Policy) -> None:
        """Finish all work, then order later work by `policy`."""
        self.finish()
        self.policy = policy
        policy.begin(self)

    def finish(self) -> None:
        """Run everything, without counting it as a host synchronise."""
        for stream in self.streams:
            self.run_until(stream, stream.issued)

    def run_what_starts(self) -> None:
        """Run ready ops that the policy starts unasked, until none is left."""
        starts = self.policy.starts
        if self.policy.ahead:
            while free := [op for op in self._heads(self.streams) if starts(op)]:
                with below_dispatch():
                    self._run_head(min(free, key=self.policy.rank).stream)
            return
        moved = True
        while moved:
            moved = False
            for stream in self.streams:
                while stream.pending and stream.pending[0].ready() and starts(stream.pending[0]):
                    with below_dispatch():
                        self._run_head(stream)
                    moved = True

    def run_until(self, stream: Queue, position: int) -> None:
        """Run exactly what happens before (stream, position), in the policy's order."""
        self.start_until(stream, position)
        self.land(stream, position)

    def start_until(self, stream: Queue, position: int) -> None:
        """The same, but what has only started on this stream need not end."""
        if stream.done >= position:
            return
        needed = self._closure(self.policy.widen(self, self._closure({stream: position})))
        with below_dispatch():
            while behind := [s for s, end in needed.items() if s.done < end]:
                ready = self._heads(self.streams if self.policy.ahead else behind)
                if not ready:
                    raise DeviceError(f"streams wait for each other: {behind}")
                self._run_head(min(ready, key=self.policy.rank).stream if len(ready) > 1 else ready[0].stream)

    def _heads(self, streams: Iterable[Queue]) -> list[Op]:
        return [s.pending[0] for s in streams if s.pending and s.pending[0].ready()]

    def _closure(self, needed: dict[Queue, int]) -> dict[Queue, int]:
        """For each stream, up to where it must have run: what happens before any of `needed`."""
        needed, work = dict(needed), list(needed)
        scanned: dict[Queue, int] = {}
        while work:
            current = work.pop()
            start, end = scanned.get(current, current.done), needed[current]
            for op in islice(current.pending, start - current.done, end - current.done):
                if op.after is not None:
                    other, until = op.after
                    if other.done < until and needed.get(other, 0) < until:
                        needed[other] = until
                        work.append(other)
            scanned[current] = end
        return needed

    def _run_head(self, stream: Queue) -> None:
        op = stream.pending.popleft()
        if op.run is not None:
            self._start(stream, op.run, op.index)
            return
        assert op.after is not None
        self.land(*op.after)
        stream.done += 1

    def _start(self, stream: Queue, run: Run, index: int) -> None:
        stream.done += 1
        flight = run()
        if flight is not None:
            stream.in_flight.append((stream.done, flight))
        for observer in self.observers:
            observer.on_run(index)

    def land(self, stream: Queue, position: int) -> None:
        """End what has started on the stream up to the position."""
        while stream.in_flight and stream.in_flight[0][0] <= position:
            with below_dispatch():
                stream.in_flight.popleft()[1]()
