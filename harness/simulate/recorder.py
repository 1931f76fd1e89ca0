"""Watches the virtual machine for one step and writes down what the host issued, as rows of a trace."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from harness.clock.products import Product
from harness.device.observe import HOST, Access, Observer, OpRecord, Site, WaitTarget
from harness.simulate.trace import Kind, Row, Secondary


class Issued(Protocol):
    """What a recorder asks beside the records: operators without device work so far; what the one told computes."""

    views: int
    flops: float
    product: Product | None


class Recorder(Observer):
    """Turns what the device says into rows; silent until `start`."""

    def __init__(self, dispatcher: Issued) -> None:
        self.dispatcher = dispatcher
        self.recording = False
        self.rows: list[Row] = []
        self.names: dict[str, int] = {}
        self.sites: dict[str, int] = {}
        self.groups: dict[tuple[int, ...], int] = {}
        self.products: dict[Product, int] = {}
        self.sizes: dict[int, int] = {}  # live storages
        self.live = 0  # bytes
        self.writes: dict[int, list[tuple[int, int]]] = {}  # storage → (row, stream)
        self.reads: dict[int, list[tuple[int, int]]] = {}
        self.writers: set[int] = set()

    def start(self) -> None:
        """Record from here on."""
        self.recording, self.live_at_start = True, self.live
        self.dispatcher.views = 0

    def _add(self, row: Row) -> None:
        views, self.dispatcher.views = self.dispatcher.views, 0
        self.rows.append(row._replace(views=views))

    def on_op(self, op: OpRecord) -> None:
        if not self.recording or op.stream == HOST:
            return
        kind = {"op": Kind.OP, "copy": Kind.TRANSFER, "collective": Kind.COLLECTIVE}[op.kind]
        here = len(self.rows)
        for accesses, log in ((op.reads, self.reads), (op.writes, self.writes)):
            for item in accesses:
                log.setdefault(item.storage, []).append((here, op.stream))
        group = -1
        if op.collective is not None:
            group = self.groups.setdefault(op.collective.ranks, len(self.groups))
        product = self.dispatcher.product if kind is Kind.OP else None
        self._add(
            Row(
                kind,
                stream=op.stream,
                name=self.names.setdefault(op.name, len(self.names)),
                read=sum(map(_bytes, op.reads)),
                written=sum(map(_bytes, op.writes)),
                flops=self.dispatcher.flops if kind is Kind.OP else 0.0,
                payload=op.collective.nbytes if op.collective else 0,
                group=group,
                product=self.products.setdefault(product, len(self.products)) if product else -1,
            )
        )

    def on_event_record(self, event: int, stream: int) -> None:
        if self.recording:
            self._add(Row(Kind.RECORD, stream=stream, event=event))

    def on_stream_wait(self, stream: int, event: int) -> None:
        if self.recording:
            self._add(Row(Kind.WAIT, stream=stream, event=event))

    def on_host_wait(self, target: WaitTarget, reason: str, site: Site) -> None:
        if not self.recording or reason == "query" or (reason == "device" and target.id):
            return
        where = self.sites.setdefault(f"{_place(site)} ({reason})", len(self.sites))
        if reason == "device":
            self._add(Row(Kind.SYNC_ALL, site=where))
        elif target.kind == "event":
            self._add(Row(Kind.SYNC_EVENT, event=target.id, site=where))
        else:
            self._add(Row(Kind.SYNC, stream=target.id, site=where))

    def on_alloc(self, storage: int, nbytes: int, stream: int, written: bool) -> None:
        if stream == HOST:
            return
        self.sizes[storage] = nbytes
        self.live += nbytes
        if self.recording:
            self._add(Row(Kind.ALLOC, stream=stream, storage=storage, payload=nbytes))

    def on_free(self, storage: int) -> None:
        if storage < 0:  # pinned host memory
            return
        nbytes = self.sizes.pop(storage)
        self.live -= nbytes
        if self.recording:
            self._add(Row(Kind.FREE, storage=storage, payload=nbytes))

    def on_record_stream(self, storage: int, stream: int) -> None:
        if self.recording:
            self._add(Row(Kind.KEEP, storage=storage, stream=stream))

    def secondaries(self, parameters: list[tuple[str, int]]) -> list[Secondary]:
        """For each (name, storage of its secondary shard): its last write before the first read elsewhere."""
        found = []
        for name, storage in parameters:
            writes = self.writes.get(storage, [])
            for row, stream in self.reads.get(storage, []):
                before = [at for at, writer in writes if at < row and writer != stream]
                if before:
                    found.append(Secondary(name, before[-1], row))
                    break
        return found


def _bytes(item: Access) -> int:
    """What a kernel moves in device memory for the access; a broadcast dimension is read once."""
    elements = int(item.storage >= 0)
    for size, stride in zip(item.sizes, item.strides, strict=True):
        if stride or size == 0:
            elements *= size
    return elements * item.itemsize


def _place(site: Site) -> str:
    """The innermost line of the program itself, as `file.py:line function`."""
    for file, line, function in site.frames():
        if "/accelerator/" not in file and "/simulate/" not in file:
            return f"{Path(file).name}:{line} {function.rpartition('.')[2]}"
    return "?"
