"""Policy `timed`: on the virtual device, real values move in the order in which a cost model's clock would move them.

A kernel takes effect when the clock says that it ends, a collective reads when the clock says that it starts: the race
strikes where timing says that it would. `timed` clocks the tensors as they are; `timed(1000)` as if each held a
thousand times as many bytes and operations, so that a toy model takes the time of a large one;
`timed(1000,infiniband-400gbps,h100-sxm-80gb)` on other hardware than the paper's. Contention is left out.
"""

from __future__ import annotations

import os
from itertools import islice
from math import prod
from typing import Any

from harness.clock.collectives import collective, layout
from harness.clock.products import Product
from harness.device.observe import HOST, Access, Observer, OpRecord, Site, WaitTarget
from harness.device.schedule import Op, Policy, Queue, Schedule
from harness.hardware import Cluster, cluster

GROUPED = "_grouped_mm"  # of experts
MATMULS = ("mm", "addmm", "bmm", "baddbmm", GROUPED)


def clocked(network: str = "ethernet-12.5gbps", gpu: str = "a100-sxm-80gb") -> Cluster:
    """What is clocked; without names the paper's node: A100s behind one 12.5 Gbps NIC. Raises HarnessError."""
    return cluster(gpu, network, "server", contention=False)


class Timed(Policy, Observer):
    """See the module. It watches the machine that it orders, to keep the clock.

    Collectives start in the order of their issue, on every rank: clocks of different ranks need not agree to the last
    digit, and real collectives must not wait for each other for ever.
    """

    def __init__(self, scale: float = 1.0, on: Cluster | None = None) -> None:
        self.scale, self.on = scale, on or clocked()
        self.ranks_per_node = int(os.environ.get("LOCAL_SIZE", "1"))
        self.host = 0.0  # seconds
        self.free: dict[int, float] = {}  # stream → when its last op ends
        self.reached: dict[int, float] = {}  # event → when it passes
        self.due: dict[int, float] = {}  # op → when it takes effect
        self.calls: list[int] = []  # ops that are collectives, in the order of issue
        self.started = 0  # of them

    def begin(self, schedule: Schedule) -> None:
        if self not in schedule.observers:
            schedule.observers.append(self)

    # ---- the clock

    def on_op(self, op: OpRecord) -> None:
        if op.stream == HOST:
            return
        host = self.on.host
        self.host += host.collective_seconds if op.collective else host.launch_seconds
        start = max(self.host, self.free.get(op.stream, 0.0))
        end = self.free[op.stream] = start + self.seconds(op)
        self.due[op.index] = start if op.collective else end
        if op.collective:
            self.calls.append(op.index)

    def on_event_record(self, event: int, stream: int) -> None:
        self.host += self.on.host.event_seconds
        self.reached[event] = self.free.get(stream, 0.0)

    def on_stream_wait(self, stream: int, event: int) -> None:
        self.host += self.on.host.event_seconds
        self.free[stream] = max(self.free.get(stream, 0.0), self.reached.get(event, 0.0))

    def on_host_wait(self, target: WaitTarget, reason: str, site: Site) -> None:
        if reason != "query":
            times = self.free if target.kind == "stream" else self.reached
            self.host = max(self.host + self.on.host.sync_seconds, times.get(target.id, 0.0))

    def seconds(self, op: OpRecord) -> float:
        """What the op takes on its stream."""
        gpu = self.on.gpu
        if op.collective is not None:
            where = layout(op.collective.ranks, self.ranks_per_node)
            return collective(
                op.collective.op, round(op.collective.nbytes * self.scale), where, self.on
            ).seconds
        moved = self.scale * sum(_nbytes(item) for item in (*op.reads, *op.writes))
        if op.kind == "copy":
            return gpu.kernel_seconds + moved / gpu.pcie_bandwidth
        product = product_of(op)
        flops = product.flops if product else 0.0
        arithmetic = self.scale * flops / (gpu.half_flops * gpu.matmul_efficiency)
        return gpu.kernel_seconds + max(moved / (gpu.memory_bandwidth * gpu.memory_efficiency), arithmetic)

    # ---- the order

    def starts(self, op: Op) -> bool:
        if op.index < 0:
            return True
        if op.collective is not None and not self._is_next(op):
            return False
        return self.due.get(op.index, 0.0) <= self.host

    def rank(self, op: Op) -> Any:
        """By the clock, but for collectives that are not next: those wait for the ones before them."""
        late = op.collective is not None and not self._is_next(op)
        return late, self.due.get(op.index, 0.0), op.index

    def on_run(self, index: int) -> None:
        if self.started < len(self.calls) and self.calls[self.started] == index:
            self.started += 1
        self.due.pop(index, None)

    def _is_next(self, op: Op) -> bool:
        return self.started >= len(self.calls) or self.calls[self.started] == op.index

    def widen(self, schedule: Schedule, needed: dict[Queue, int]) -> dict[Queue, int]:
        """With what is needed goes all that takes effect before it, and every collective issued before its last."""
        pending = {
            stream: list(islice(stream.pending, max(0, end - stream.done))) for stream, end in needed.items()
        }
        ops = [op for each in pending.values() for op in each if op.index >= 0]
        moment = max((self.due.get(op.index, 0.0) for op in ops), default=0.0)
        last = max((op.index for op in ops if op.collective is not None), default=-1)
        wider = dict(needed)
        for stream in schedule.streams:
            end = _reach(stream, lambda op: self.due.get(op.index, 0.0) <= moment or _precedes(op, last))
            if end > wider.get(stream, 0) and end > stream.done:
                wider[stream] = end
        return wider


def _reach(stream: Queue, wanted: Any) -> int:
    """The position after the last pending op of the stream that is wanted."""
    end = stream.done
    for position, op in enumerate(stream.pending, start=stream.done + 1):
        if op.index >= 0 and wanted(op):
            end = position
    return end


def _precedes(op: Op, last: int) -> bool:
    return op.collective is not None and op.index <= last


def product_of(op: OpRecord) -> Product | None:
    """The matrix product that an op computes, from the shapes that it touches; None for other ops."""
    if op.name not in MATMULS or len(op.reads) < 2:
        return None
    if op.name == GROUPED:  # each row meets one of the matrices; the last read says which
        left, right = op.reads[0], op.reads[1]
    else:
        left, right = op.reads[-2:]
    batch = prod(left.sizes[:-2])
    return Product(batch, left.sizes[-2], left.sizes[-1], right.sizes[-1], left.itemsize)


def _nbytes(item: Access) -> int:
    """In device memory."""
    elements = int(item.storage >= 0)
    for size, stride in zip(item.sizes, item.strides, strict=True):
        elements *= size if stride else 1
    return elements * item.itemsize
