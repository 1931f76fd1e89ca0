"""Streams, events and the machine that runs deferred ops in a legal order.

Semantics are those of CUDA streams and events as PyTorch shows them (CUDA C++ Programming Guide, "Asynchronous
Concurrent Execution"): a stream is a FIFO; a wait captures what the event stood for when the wait was called; waiting
for an event never recorded does nothing; side streams do not synchronise with the default stream by themselves.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any

import torch

from harness.device.errors import DeviceError
from harness.device.observe import Collective, Observer, WaitTarget, call_site
from harness.device.policies import Eager, Policy

Flight = Callable[[], object]  # ends an op that has started: waits for it and writes its results
Run = Callable[[], Flight | None]
PATIENCE = 64  # times that a program may ask in a row whether an event is done before the device obliges


class Op:
    """A deferred op, or a wait (`run` is None), at its position in its stream.

    `run` may only start the op and return what ends it, which is called before anything that waits for the op.
    """

    __slots__ = ("after", "collective", "index", "name", "position", "run", "stream")

    def __init__(
        self,
        stream: Stream,
        name: str,
        run: Run | None,
        index: int = -1,
        after: tuple[Stream, int] | None = None,
        collective: Collective | None = None,
    ) -> None:
        self.stream, self.name, self.run, self.index = stream, name, run, index
        self.after, self.collective = after, collective
        self.position = stream.issued

    def ready(self) -> bool:
        return self.after is None or self.after[0].done >= self.after[1]


class Stream(torch.Stream):
    """A FIFO of device work, with the interface of torch.cuda.Stream. Created on the machine in use.

    It is a torch.Stream because `Tensor.record_stream` accepts nothing else; torch's own part is never used.
    """

    def __new__(cls, device: object = None, priority: int = 0, **_: object) -> Stream:
        return super().__new__(cls, stream_id=len(machine().streams), device_index=0, device_type=0)

    def __init__(self, device: object = None, priority: int = 0, **_: object) -> None:
        self.machine = machine()
        self.id = len(self.machine.streams)
        self.pending: deque[Op] = deque()
        self.in_flight: deque[tuple[int, Flight]] = deque()  # started, results not yet in device memory
        self.issued = 0
        self.done = 0
        self.seen = 0  # how far the host has waited
        self.machine.streams.append(self)

    def __enter__(self) -> Stream:
        self.context = StreamContext(self)
        self.context.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self.context.__exit__(*error)

    def wait_event(self, event: Event) -> None:  # type: ignore[override]
        self.machine.stream_wait(self, event)

    def wait_stream(self, stream: Stream) -> None:  # type: ignore[override]
        if stream is not self:
            self.wait_event(stream.record_event())

    def record_event(self, event: Event | None = None) -> Event:  # type: ignore[override]
        event = event or Event()
        event.record(self)
        return event

    def synchronize(self) -> None:
        self.machine.host_wait(self, "stream")

    def query(self) -> bool:
        """Whether all work issued so far is done."""
        event = Event()
        event.stream, event.position = self, self.issued
        return self.machine.query(event)

    def __repr__(self) -> str:
        return f"<virtual stream {self.id}: {self.done} of {self.issued} done>"


class Event:
    """A point in a stream, with the interface of torch.cuda.Event."""

    def __init__(
        self, enable_timing: bool = False, blocking: bool = False, interprocess: bool = False, **_: object
    ) -> None:
        self.machine = machine()
        self.id = self.machine.next_event_id()
        self.stream: Stream | None = None
        self.position = 0
        self.timing = enable_timing
        self.seconds = 0.0
        self.asked = 0

    def record(self, stream: Stream | None = None) -> None:
        self.machine.record(self, stream or self.machine.current)

    def wait(self, stream: Stream | None = None) -> None:
        self.machine.stream_wait(stream or self.machine.current, self)

    def query(self) -> bool:
        return self.machine.query(self)

    def synchronize(self) -> None:
        self.machine.host_wait_event(self)

    def elapsed_time(self, end: Event) -> float:
        """Milliseconds of host time between both records: the device has no clock of its own."""
        if not (self.timing and end.timing):
            raise DeviceError("elapsed_time needs both events made with enable_timing=True")
        if self.stream is None or end.stream is None:
            raise DeviceError("elapsed_time needs both events recorded")
        return (end.seconds - self.seconds) * 1e3


class Machine:
    """All streams of one rank, the policy that orders them, what was counted and who watches."""

    def __init__(self, policy: Policy | None = None) -> None:
        self.policy = policy or Eager()
        self.streams: list[Stream] = []
        self.observers: list[Observer] = []
        self.ops = 0
        self.events = 0
        self.events_recorded = 0
        self.stream_waits = 0
        self.host_syncs: Counter[tuple[str, str]] = Counter()
        with use(self):
            self.default = Stream()
        self.current = self.default

    def next_event_id(self) -> int:
        self.events += 1
        return self.events - 1

    def next_op_index(self) -> int:
        self.ops += 1
        return self.ops - 1

    def use_policy(self, policy: Policy) -> None:
        """Finish all work, then order later work by `policy`."""
        self.finish()
        self.policy = policy
        policy.begin(self)

    # ---- issuing

    def issue(
        self,
        name: str,
        run: Run,
        stream: Stream | None = None,
        collective: Collective | None = None,
    ) -> int:
        """Put an op at the end of a stream; returns its index."""
        stream = stream or self.current
        index = self.next_op_index()
        stream.issued += 1
        if self.policy.immediate:
            with below_dispatch():
                self._start(stream, run, index)
            return index
        stream.pending.append(Op(stream, name, run, index, collective=collective))
        self.run_what_starts()
        return index

    def record(self, event: Event, stream: Stream) -> None:
        event.stream, event.position, event.asked = stream, stream.issued, 0
        if event.timing:
            event.seconds = time.perf_counter()
        self.events_recorded += 1
        for observer in self.observers:
            observer.on_event_record(event.id, stream.id)

    def stream_wait(self, stream: Stream, event: Event) -> None:
        self.stream_waits += 1
        if event.stream is None:
            return
        for observer in self.observers:
            observer.on_stream_wait(stream.id, event.id)
        if event.stream is stream:
            return
        if stream.pending or event.stream.done < event.position:
            stream.issued += 1
            stream.pending.append(Op(stream, "wait", None, after=(event.stream, event.position)))
        else:
            self.land(event.stream, event.position)

    # ---- the host waits

    def host_wait(self, stream: Stream, reason: str) -> None:
        """The host waits for all work issued to the stream so far; counted by reason and source line."""
        self._count(reason)
        self._waited(WaitTarget("stream", stream.id), reason)
        self.run_until(stream, stream.issued)
        stream.seen = stream.issued

    def host_wait_event(self, event: Event) -> None:
        self._count("event")
        if event.stream is not None:
            self._waited(WaitTarget("event", event.id), "event")
            self.run_until(event.stream, event.position)
            event.stream.seen = max(event.stream.seen, event.position)

    def synchronize(self, reason: str = "device") -> None:
        """The host waits for the whole device: one host synchronise."""
        self._count(reason)
        for stream in self.streams:
            self._waited(WaitTarget("stream", stream.id), reason)
        self.finish()
        for stream in self.streams:
            stream.seen = stream.issued

    def query(self, event: Event) -> bool:
        if event.stream is None:
            return True
        behind = self.policy.lags and event.stream.seen < event.position
        if behind or event.stream.done < event.position:
            event.asked += 1
            if event.asked < PATIENCE:
                return False
        self.run_until(event.stream, event.position)
        self._waited(WaitTarget("event", event.id), "query")
        return True

    def _count(self, reason: str) -> None:
        code, line = call_site(1).stack[0]
        self.host_syncs[reason, f"{code.co_filename}:{line}"] += 1

    def _waited(self, target: WaitTarget, reason: str) -> None:
        if self.observers:
            site = call_site(12)
            for observer in self.observers:
                observer.on_host_wait(target, reason, site)

    # ---- running

    def finish(self) -> None:
        """Run everything, without counting it as a host synchronise."""
        for stream in self.streams:
            self.run_until(stream, stream.issued)

    def run_what_starts(self) -> None:
        """Run ready ops that the policy starts unasked, until none is left."""
        starts = self.policy.starts
        moved = True
        while moved:
            moved = False
            for stream in self.streams:
                while stream.pending and stream.pending[0].ready() and starts(stream.pending[0]):
                    with below_dispatch():
                        self._run_head(stream)
                    moved = True

    def run_until(self, stream: Stream, position: int) -> None:
        """Run exactly what happens before (stream, position), in the policy's order."""
        if stream.done >= position:
            self.land(stream, position)
            return
        needed = self._closure(self.policy.widen(self, self._closure({stream: position})))
        with below_dispatch():
            while behind := [s for s, end in needed.items() if s.done < end]:
                ready = [s.pending[0] for s in behind if s.pending[0].ready()]
                if not ready:
                    raise DeviceError(f"streams wait for each other: {behind}")
                self._run_head(min(ready, key=self.policy.rank).stream if len(ready) > 1 else ready[0].stream)
        self.land(stream, position)

    def _closure(self, needed: dict[Stream, int]) -> dict[Stream, int]:
        """For each stream, up to where it must have run: what happens before any of `needed`."""
        needed, work = dict(needed), list(needed)
        scanned: dict[Stream, int] = {}
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

    def _run_head(self, stream: Stream) -> None:
        op = stream.pending.popleft()
        if op.run is not None:
            self._start(stream, op.run, op.index)
            return
        assert op.after is not None
        self.land(*op.after)
        stream.done += 1

    def _start(self, stream: Stream, run: Run, index: int) -> None:
        stream.done += 1
        flight = run()
        if flight is not None:
            stream.in_flight.append((stream.done, flight))
        for observer in self.observers:
            observer.on_run(index)

    def land(self, stream: Stream, position: int) -> None:
        """End what has started on the stream up to the position."""
        while stream.in_flight and stream.in_flight[0][0] <= position:
            with below_dispatch():
                stream.in_flight.popleft()[1]()


_machine: Machine | None = None


def machine() -> Machine:
    """The machine in use in this process."""
    global _machine
    if _machine is None:
        _machine = Machine()
    return _machine


def set_machine(new: Machine) -> None:
    global _machine
    _machine = new


@contextmanager
def use(new: Machine) -> Iterator[Machine]:
    """Streams and events made inside belong to `new`."""
    global _machine
    previous, _machine = _machine, new
    try:
        yield new
    finally:
        _machine = previous


class StreamContext:
    """`with` this, ops go to the stream; None changes nothing, as with torch.cuda.stream."""

    def __init__(self, stream: Stream | None) -> None:
        self.stream = stream

    def __enter__(self) -> None:
        if self.stream is not None:
            self.previous = self.stream.machine.current
            self.stream.machine.current = self.stream

    def __exit__(self, *_: object) -> None:
        if self.stream is not None:
            self.stream.machine.current = self.previous


class below_dispatch:
    """Kernels inside run plainly: no mode sees them and autograd does not record them."""

    __slots__ = ("guards",)

    def __enter__(self) -> None:
        self.guards: tuple[Any, ...] = (
            torch._C.DisableTorchFunction(),
            torch._C._DisableTorchDispatch(),
            torch._C._AutoDispatchBelowAutograd(),
        )
        for guard in self.guards:
            guard.__enter__()

    def __exit__(self, *error: object) -> None:
        for guard in reversed(self.guards):
            guard.__exit__(*error)
