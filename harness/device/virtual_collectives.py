"""Collectives on the virtual device: deferred to streams, with NCCL's semantics (PyTorch, ProcessGroupNCCL).

A collective runs on its group's own stream, after all that the issuing stream holds; `Work.wait()` makes the current
stream, not the host, wait for it. The real gloo call comes when the op runs.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from harness.device.c10d import HOST_CALLS, SHAPES, StreamWork, answer, call_of
from harness.device.collectives import Backend, Call, Tensor
from harness.device.errors import DeviceError
from harness.device.memory import accesses, on_device
from harness.device.observe import Collective, OpRecord
from harness.device.poison import alias
from harness.device.records import tell
from harness.device.schedule import Flight
from harness.device.streams import Event, Machine, Stream
from harness.device.torch_private import below_dispatch, functions_off


class VirtualBackend(Backend):
    """Defers collectives on device memory to their group's stream; those on host memory run at once."""

    def __init__(self, inner: Any, machine: Machine) -> None:
        super().__init__(inner)
        self._machine = machine
        self._streams: dict[int, Stream] = {}  # group number → its stream
        self._pairs: dict[
            tuple[int, int, int], Stream
        ] = {}  # group number and two ranks → their messages' stream
        self._works: deque[StreamWork] = deque(maxlen=4096)  # Python's part must outlive the call
        machine.collectives = self

    def operator(self, func: Any, name: str, args: tuple[Any, ...]) -> Any:
        """A call of an operator of c10d on device memory."""
        if name in HOST_CALLS:
            self._machine.host_wait(self._machine.current, name.strip("_"))
            self._before_host_call()
            with below_dispatch():
                return func(*args)
        if name not in SHAPES:
            raise DeviceError(f"c10d.{name} on device memory is not known to the virtual device")
        collective, reads, writes, call = call_of(self, func, name, args)
        self.counted[collective] += 1
        stream = self._pair_stream(collective) if collective.op == "send_recv" else None
        work = StreamWork(self._defer(collective, reads, writes, call, True, stream), writes)
        self._works.append(work)
        if stream is not None:  # the other rank may need it for what this one waits for next
            self._machine.start_until(stream, stream.issued)
        return answer(name, func, args, work)

    def _pair_stream(self, collective: Collective) -> Stream:
        low, high = sorted(collective.ranks)
        key = collective.group, low, high
        if key not in self._pairs:
            self._pairs[key] = Stream()
        return self._pairs[key]

    def _perform(
        self, collective: Collective, reads: list[Tensor], writes: list[Tensor], call: Call, async_op: bool
    ) -> Any:
        with functions_off():
            places = {on_device(t) for t in (*reads, *writes)}
            if places == {True, False}:
                raise DeviceError(
                    f"{collective.op}: some of its tensors are on the device and some on the host"
                )
            if places != {True}:
                self._before_host_call()
                with below_dispatch():
                    return call(reads, writes, async_op)
            return self._defer(collective, reads, writes, call, async_op)

    def _defer(
        self,
        collective: Collective,
        reads: list[Tensor],
        writes: list[Tensor],
        call: Call,
        async_op: bool,
        stream: Stream | None = None,
    ) -> Any:
        machine = self._machine
        stream = stream or self._group_stream(collective.group)
        stream.wait_event(machine.current.record_event())
        if machine.observers:
            self._observe(collective, reads, writes, stream)
        with below_dispatch():
            aliases = [alias(t) for t in reads], [alias(t) for t in writes]
        machine.issue(collective.op, _Run(collective, call, machine, stream, *aliases), stream, collective)
        work = Work(stream.record_event(), collective)
        machine.policy.at_collective(machine)
        if async_op:
            return work
        work.wait()
        return None

    def _group_stream(self, group: int) -> Stream:
        if group not in self._streams:
            self._streams[group] = Stream()
        return self._streams[group]

    def _observe(
        self, collective: Collective, reads: list[Tensor], writes: list[Tensor], stream: Stream
    ) -> None:
        record = OpRecord(
            index=self._machine.ops,
            name=collective.op,
            stream=stream.id,
            kind="collective",
            reads=accesses(reads),
            writes=accesses(writes),
            collective=collective,
        )
        tell(self._machine, record, reads)

    def all_gather_coalesced(
        self,
        output_tensors: list[Tensor],
        input_tensors: list[Tensor],
        group: Any = None,
        async_op: bool = False,
    ) -> Any:
        """One op each, as gloo cannot coalesce; they share a stream, so that the last ends last."""
        work = None
        for output, source in zip(output_tensors, input_tensors, strict=True):
            work = self.all_gather_into_tensor(output, source, group, async_op)
        return work

    def _before_host_call(self) -> None:
        # gloo matches calls by their order in a group, so that what was deferred goes first, on every rank.
        for stream in (*self._streams.values(), *self._pairs.values()):
            self._machine.run_until(stream, stream.issued)

    def barrier(self, *args: Any, **kwargs: Any) -> Any:
        """As with NCCL, the host waits for the current stream, too."""
        self._machine.host_wait(self._machine.current, "barrier")
        with below_dispatch():
            return super().barrier(*args, **kwargs)


class _Run:
    """The real call: it reads device memory when it starts, and writes there when it ends.

    Between the two gloo works in its own threads on copies, so that the bits do not depend on their speed.
    """

    def __init__(
        self,
        collective: Collective,
        call: Call,
        machine: Machine,
        stream: Stream,
        reads: list[Tensor],
        writes: list[Tensor],
    ) -> None:
        self.collective, self.call, self.machine, self.stream = collective, call, machine, stream
        self.reads, self.writes = reads, writes

    def __call__(self) -> Flight | None:
        self._after_conflicting()
        with self._explained():
            self.staged = self._copies(self.writes)  # all_reduce and its kin read what they write
            self.work = self.call(self._copies(self.reads), self.staged, True)
        return self._end

    def _end(self) -> None:
        with self._explained():
            if self.work is not None:
                self.work.wait()
        for target, result in zip(self.writes, self.staged, strict=True):
            target.copy_(result.view_as(target))

    def _copies(self, tensors: list[Tensor]) -> list[Tensor]:
        """Flat, as NCCL counts elements where gloo compares shapes; the splits of an all-to-all count rows."""
        if self.collective.op == "all_to_all" and len(tensors) == 1:
            return [t.clone() for t in tensors]
        return [t.clone(memory_format=torch.contiguous_format).view(-1) for t in tensors]

    def _after_conflicting(self) -> None:
        """A stream is a FIFO: what it has in flight ends first, where it writes what this reads or writes."""
        mine = {t.untyped_storage().data_ptr() for t in (*self.reads, *self.writes)}
        for position, flight in list(self.stream.in_flight):
            other = flight.__self__  # type: ignore[attr-defined]
            if not mine.isdisjoint(t.untyped_storage().data_ptr() for t in other.writes):
                self.machine.land(self.stream, position)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            what = self.collective
            raise DeviceError(
                f"{what.op} of {what.nbytes} bytes among ranks {list(what.ranks)} failed ({error}); the ranks may "
                "have issued different collectives, or one of them has ended"
            ) from error


class Work:
    """Handle of a deferred collective, with the interface of torch.distributed.Work."""

    def __init__(self, done: Event, collective: Collective) -> None:
        self.done, self.collective = done, collective

    def wait(self, timeout: object = None) -> bool:
        """The current stream waits; the host does not."""
        self.done.wait()
        return True

    def is_completed(self) -> bool:
        return self.done.query()

    def synchronize(self) -> None:
        self.done.wait()

    def get_future(self) -> Any:
        raise DeviceError(f"Work.get_future of {self.collective.op} is not known to the virtual device")
