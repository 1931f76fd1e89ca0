"""Streams, events and the machine that issues work to them, waits for it and counts.

Semantics are those of CUDA streams and events as PyTorch shows them (CUDA C++ Programming Guide, "Asynchronous
Concurrent Execution"): a stream is a FIFO; a wait captures what the event stood for when the wait was called; waiting
for an event never recorded does nothing; side streams do not synchronise with the default stream by themselves.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch

from harness.device.errors import DeviceError
from harness.device.nodes import NodeStreams
from harness.device.observe import Collective, OpRecord, Site, WaitTarget, call_site
from harness.device.schedule import Eager, Op, Policy, Queue, Run, Schedule
from harness.device.shown import shown
from harness.device.torch_private import below_dispatch

PATIENCE = 64  # times that a program may ask in a row whether an event is done before the device obliges


class Stream(torch.Stream, Queue):
    """A FIFO of device work, with the interface of torch.cuda.Stream. Created on the machine in use.

    It is a torch.Stream because `Tensor.record_stream` accepts nothing else; torch's own part is never used.
    """

    def __new__(cls, device: object = None, priority: int = 0, **_: object) -> Stream:
        return super().__new__(cls, stream_id=len(machine().streams), device_index=0, device_type=0)

    def __init__(self, device: object = None, priority: int = 0, **_: object) -> None:
        self.machine, self.priority = machine(), priority
        Queue.__init__(self, len(self.machine.streams))
        self.machine.streams.append(self)

    def __enter__(self) -> Stream:
        self.context = StreamContext(self)
        self.context.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self.context.__exit__(*error)

    @staticmethod
    def priority_range() -> tuple[int, int]:
        """Lowest and highest, as most GPUs have them; order does not depend on them."""
        return 0, -1

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return shown.device

    @property
    def cuda_stream(self) -> int:
        raise DeviceError(
            "Stream.cuda_stream is asked for: a kernel that is launched on a raw handle is not seen by the virtual "
            "device; switch to torch's operators"
        )

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


class Follower(Protocol):
    """A backward pass, which changes the current stream from node to node (harness.device.backward)."""

    def follow(self) -> None: ...


class Machine(Schedule):
    """All streams of one rank, the policy that orders them, what was counted and who watches."""

    def __init__(self, policy: Policy | None = None) -> None:
        super().__init__(policy or Eager())
        self.ops = 0
        self.events = 0
        self.events_recorded = 0
        self.stream_waits = 0
        self.host_syncs: Counter[tuple[str, str]] = Counter()
        self.threaded = False  # whether the program has started a thread
        self.unseen: Counter[tuple[str, Site]] = (
            Counter()
        )  # ways into memory that no op shows, by who took them
        self.recorder: Callable[[OpRecord, Sequence[torch.Tensor]], None] | None = (
            None  # told of each op with what it gave, or a collective was given; for policies that run ops at once
        )
        self.reader: Callable[[Any], None] = lambda _: (
            None
        )  # told of each number and tensor that the host reads
        self.memory: Any = None  # the device's, see harness.device.memory
        self.collectives: Any = None  # its communication backend, see harness.device.virtual_collectives
        with use(self):
            self.default = Stream()
        self._current = self.default
        self.nodes = NodeStreams(self.default)
        self.backward: Follower | None = (
            None  # the pass of autograd's engine that is under way, if it meets streams
        )

    @property
    def current(self) -> Stream:
        """The stream to which work goes now; in a backward pass that of the node at work."""
        if self.backward is not None:
            self.backward.follow()
        return self._current

    @current.setter
    def current(self, stream: Stream) -> None:
        if stream is not self._current:
            self._current = stream
            self.nodes.switch(stream)

    def next_event_id(self) -> int:
        self.events += 1
        return self.events - 1

    def next_op_index(self) -> int:
        self.ops += 1
        return self.ops - 1

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

    def note_unseen(self, what: str) -> None:
        """The program got at memory in a way that leaves what it does there unseen."""
        self.unseen[what, call_site(12)] += 1

    def _count(self, reason: str) -> None:
        code, line = call_site(1).stack[0]
        self.host_syncs[reason, f"{code.co_filename}:{line}"] += 1

    def _waited(self, target: WaitTarget, reason: str) -> None:
        if self.observers:
            site = call_site(12)
            for observer in self.observers:
                observer.on_host_wait(target, reason, site)


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
