"""What each record of a trace costs on a cluster: seconds when alone, and the share of each shared resource it takes.

Kernels follow the roofline (Williams, Waterman, Patterson 2009): the longer of arithmetic and memory traffic, the
arithmetic of matrix products by their shape (harness.clock.products). What a collective takes alone stands in
harness.clock.collectives; while it runs it keeps some multiprocessors from the kernels beside it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from harness.clock.collectives import Wire, collective, layout
from harness.clock.products import product_seconds
from harness.hardware import Cluster, Gpu
from harness.simulate.trace import Kind, Trace

Floats = npt.NDArray[np.float64]
RESOURCES = ("memory", "nvlink", "nic", "multiprocessors")
LIMITS = ("compute", "nvlink", "nic", "latency")


@dataclass(frozen=True, eq=False)
class Costs:
    """Per row of the trace; seconds are 0 where a row has none of its kind."""

    host: Floats  # seconds of the host thread
    solo: Floats  # seconds on the stream when nothing else runs
    use: Floats  # (rows, resources): share of each that it takes while it runs alone
    latency: Floats  # the part of solo that is latency
    limit: npt.NDArray[np.int8]  # index into LIMITS: what bounds it
    nic_bytes: Floats
    nvlink_bytes: Floats


def costs(trace: Trace, on: Cluster) -> Costs:
    """The costs of every row."""
    columns, rows = trace.columns, len(trace)
    solo, latency = np.zeros(rows), np.zeros(rows)
    use, limit = np.zeros((rows, len(RESOURCES))), np.zeros(rows, np.int8)
    sent = np.zeros((rows, 2))
    _kernels(trace, on, solo, use)
    moved = columns["read"] + columns["written"]
    crossing = columns["kind"] == Kind.TRANSFER
    solo[crossing] = on.gpu.kernel_seconds + moved[crossing] / on.gpu.pcie_bandwidth
    ranks_per_node = int(trace.about["shape"]["ranks_per_node"])
    hbm = on.gpu.memory_bandwidth * on.gpu.memory_efficiency
    for row in np.flatnonzero(columns["kind"] == Kind.COLLECTIVE):
        group = trace.groups[columns["group"][row]]
        op, payload = trace.names[columns["name"][row]], int(columns["payload"][row])
        wire = collective(op, payload, layout(group, ranks_per_node), on)
        solo[row], latency[row] = wire.seconds, wire.latency
        sent[row] = wire.nvlink_bytes, wire.nic_bytes
        use[row] = _shares(wire, moved[row] / hbm, on)
        limit[row] = _limit(use[row], wire)
    host = _host(trace, on)
    if not on.streams:
        kernels = columns["kind"] <= Kind.TRANSFER
        host, solo = host + np.where(kernels, solo, 0.0), np.where(kernels, 0.0, solo)
    return Costs(host, solo, use, latency, limit, sent[:, 1], sent[:, 0])


def _kernels(trace: Trace, on: Cluster, solo: Floats, use: Floats) -> None:
    """Roofline of every kernel, in place."""
    gpu, columns = on.gpu, trace.columns
    ops = columns["kind"] == Kind.OP
    moved = (_bytes_read(trace) + columns["written"])[ops]
    traffic = moved / (gpu.memory_bandwidth * gpu.memory_efficiency)
    work = np.maximum(traffic, _arithmetic(trace, gpu)[ops])
    solo[ops] = work + gpu.kernel_seconds
    use[ops, 0] = np.divide(traffic, solo[ops], out=np.ones_like(work), where=solo[ops] > 0)
    use[ops, 3] = columns["flops"][ops] > 0


def _arithmetic(trace: Trace, gpu: Gpu) -> Floats:
    """Seconds of each row's arithmetic: products by their shape, attention and others at their efficiency."""
    columns = trace.columns
    half = trace.about["training"]["dtype"] == "bf16"
    peak = gpu.half_flops if half else gpu.single_flops
    attends = np.array(["attention" in name for name in (*trace.names, "")])[columns["name"]]
    efficiency = np.where(attends, gpu.attention_efficiency, gpu.matmul_efficiency)
    each = np.array([product_seconds(product, gpu) for product in trace.products] or [0.0])
    known = columns["product"] >= 0
    return np.where(known, each[columns["product"]], columns["flops"] / (peak * efficiency))


def _bytes_read(trace: Trace) -> npt.NDArray[np.int64]:
    """As recorded, but for look-ups, which read no more of their table than they write."""
    columns = trace.columns
    lookups = [number for number, name in enumerate(trace.names) if name == "embedding"]
    here = np.isin(columns["name"], lookups)
    return np.where(here, np.minimum(columns["read"], 2 * columns["written"]), columns["read"])


def _host(trace: Trace, on: Cluster) -> Floats:
    host, columns = on.host, trace.columns
    each = np.zeros(len(Kind))
    each[[Kind.OP, Kind.TRANSFER]] = host.launch_seconds
    each[Kind.COLLECTIVE] = host.collective_seconds
    each[[Kind.RECORD, Kind.WAIT]] = host.event_seconds
    each[[Kind.SYNC, Kind.SYNC_EVENT, Kind.SYNC_ALL]] = host.sync_seconds
    return np.asarray(each[columns["kind"]] + columns["views"] * host.view_seconds)


def _shares(wire: Wire, memory_seconds: float, on: Cluster) -> tuple[float, ...]:
    if wire.seconds <= 0:
        return (0.0,) * len(RESOURCES)
    gpu = on.gpu
    nvlink = wire.nvlink_bytes / (gpu.nvlink_bandwidth * gpu.nvlink_efficiency)
    nic = wire.nic_bytes / on.network.bandwidth
    taken = gpu.collective_multiprocessors / gpu.multiprocessors if gpu.multiprocessors else 0.0
    return *(min(1.0, part / wire.seconds) for part in (memory_seconds, nvlink, nic)), taken


def _limit(use: Floats, wire: Wire) -> int:
    if wire.latency > wire.seconds / 2:
        return LIMITS.index("latency")
    return LIMITS.index("nic") if use[2] > use[1] else LIMITS.index("nvlink")


def total_bytes(trace: Trace, on: Cluster) -> tuple[float, float]:
    """Bytes of one step: what one node sends to others, and what one GPU sends inside its node."""
    cost = costs(trace, on)
    return float(cost.nic_bytes.sum()), float(cost.nvlink_bytes.sum())


def describe(trace: Trace, row: int) -> dict[str, Any]:
    """One row in words, for exports."""
    columns = trace.columns
    name = int(columns["name"][row])
    return {
        "name": trace.names[name] if name >= 0 else Kind(columns["kind"][row]).name.lower(),
        "bytes": int(columns["payload"][row]) or int(columns["read"][row] + columns["written"][row]),
        "flops": float(columns["flops"][row]),
        "ranks": len(trace.groups[columns["group"][row]]) if columns["group"][row] >= 0 else 0,
    }
