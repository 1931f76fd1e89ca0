"""Feeds the race analysis from the virtual device: one observer on one rank."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from pathlib import Path

from harness.device.observe import Access, Observer, OpRecord, Site, WaitTarget
from harness.race.findings import HOST, Mark
from harness.race.happens_before import Analysis
from harness.race.memory import Footprint, footprint
from harness.race.sites import capture, visible


class Watcher(Observer):
    """Translates what the device says into the terms of the analysis, on this rank."""

    def __init__(self, analysis: Analysis, rank: int = 0) -> None:
        self.analysis, self.rank = analysis, rank
        self.host_accesses = self.collectives = 0

    def on_op(self, op: OpRecord) -> None:
        place = 0
        if op.collective is not None:
            self.collectives += 1
            place = op.collective.ranks.index(self.rank)
        elif op.stream == HOST:
            self.host_accesses += 1
        reads, writes = _touched(op.reads), _touched(op.writes)
        self.analysis.op(op.index, op.name, op.stream, reads, writes, capture(), place, op.pointwise)

    def on_event_record(self, event: int, stream: int) -> None:
        self.analysis.record(event, stream, capture(2))

    def on_stream_wait(self, stream: int, event: int) -> None:
        self.analysis.stream_wait(stream, event, capture(2))

    def on_host_wait(self, target: WaitTarget, reason: str, site: Site) -> None:
        if target.kind == "event":
            self.analysis.host_wait_event(target.id, reason, visible(site.stack), cost=reason != "query")
        else:
            # The device synchronises stream by stream; that is one wait, counted with the default stream.
            self.analysis.host_wait_stream(
                target.id, reason, visible(site.stack), cost=reason != "device" or target.id == 0
            )

    def on_alloc(self, storage: int, nbytes: int, stream: int, written: bool) -> None:
        self.analysis.alloc(storage, nbytes, stream, written)

    def on_free(self, storage: int) -> None:
        self.analysis.free(storage, capture)

    def on_release(self, token: Hashable) -> None:
        self.analysis.clocks.release(token)

    def on_acquire(self, token: Hashable) -> None:
        self.analysis.clocks.acquire(token)

    def on_thread_end(self) -> None:
        self.analysis.clocks.end_thread()

    def on_record_stream(self, storage: int, stream: int) -> None:
        self.analysis.record_stream(storage, stream)


class Order(Observer):
    """The order in which ops ran."""

    def __init__(self) -> None:
        self.order: list[int] = []  # of the host's accesses: ~index

    def on_op(self, op: OpRecord) -> None:
        if op.stream == HOST:  # it has no index of its own
            self.order.append(~op.index)

    def on_run(self, index: int) -> None:
        self.order.append(index)


class Excerpt(Order):
    """The same, and what was issued around one pair of ops, for the picture."""

    MARGIN = 5  # ops before and after the pair

    def __init__(self, first: int, last: int, name_streams: Callable[[], None]) -> None:
        super().__init__()
        self.first, self.last, self.name_streams = first - self.MARGIN, last + self.MARGIN, name_streams
        self.marks: list[Mark] = []
        self.next = 0

    def on_op(self, op: OpRecord) -> None:
        super().on_op(op)
        self.next = op.index + (op.stream != HOST)
        self._add(Mark(op.index, op.stream, "op", op.name, capture()))
        if op.index == self.last:
            self.name_streams()

    def on_event_record(self, event: int, stream: int) -> None:
        self._add(Mark(self.next, stream, "record", f"record event {event}", capture(1), event))

    def on_stream_wait(self, stream: int, event: int) -> None:
        self._add(Mark(self.next, stream, "wait", f"wait event {event}", capture(1), event))

    def on_host_wait(self, target: WaitTarget, reason: str, site: Site) -> None:
        self._add(Mark(self.next, HOST, "host-wait", reason, visible(site.stack)))

    def _add(self, mark: Mark) -> None:
        if self.first <= mark.index <= self.last:
            self.marks.append(mark)


class CollectiveLog(Observer):
    """Writes each collective to a file as it is issued, so that a hang can be explained."""

    def __init__(self, file: Path) -> None:
        self.file = file.open("wb", buffering=0)

    def on_op(self, op: OpRecord) -> None:
        call = op.collective
        if call is not None:
            ranks = ",".join(map(str, call.ranks))
            place = next(map(str, capture(1)), "an unknown place")
            self.file.write(f"{call.group} {ranks} {call.op} {call.nbytes} {place}\n".encode())


def _touched(accesses: tuple[Access, ...]) -> list[tuple[int, Footprint]]:
    return [(access.storage, view) for access in accesses if (view := footprint(*access[1:])) is not None]
