"""Shared by the tests of simulated time: small programs, and their longest path computed by networkx alone."""

from __future__ import annotations

from typing import Any

import networkx as nx
import pandas as pd

from harness.hardware import Cluster, cluster
from harness.simulate.costs import costs
from harness.simulate.records import Simulated
from harness.simulate.timeline import LIMITED_BY
from harness.simulate.trace import Kind, Row, Secondary, Trace, from_rows

STREAMS = 3
WORLD, NODE = tuple(range(16)), tuple(range(8))
ABOUT = {
    "model": "tiny",
    "variant": "fixed",
    "shape": {"nodes": 2, "ranks_per_node": 8, "hpz": 8},
    "training": {"dtype": "bf16"},
    "tokens": 1000,
    "live_bytes": 0,
}
A100 = cluster("a100-sxm-80gb", "infiniband-100gbps", "server", contention=False)
CONTENDED = A100.model_copy(update={"contention": True})
IDLE = ("idle", 0)  # the end of a stream on which nothing was issued


def program(rows: list[Row], secondaries: tuple[Secondary, ...] = ()) -> Trace:
    """A trace of these records on streams compute, side and comm."""
    return from_rows(
        rows,
        names=["mm", "all_gather"],
        sites=["a.py:1 f (stream)"],
        groups=[WORLD, NODE],
        streams=["compute", "side", "comm"],
        secondaries=secondaries,
        about=ABOUT,
    )


def op(stream: int = 0, milliseconds: float = 1.0) -> Row:
    """A kernel bound by arithmetic."""
    gpu = A100.gpu
    seconds = milliseconds / 1e3 - gpu.kernel_seconds
    return Row(Kind.OP, stream=stream, name=0, flops=seconds * gpu.half_flops * gpu.matmul_efficiency)


def gather(stream: int = 2, payload: int = 10**8, group: int = 0) -> Row:
    return Row(
        Kind.COLLECTIVE,
        stream=stream,
        name=1,
        payload=payload,
        read=payload // 16,
        written=payload,
        group=group,
    )


def record(event: int, stream: int = 0) -> Row:
    return Row(Kind.RECORD, stream=stream, event=event)


def wait(event: int, stream: int = 2) -> Row:
    return Row(Kind.WAIT, stream=stream, event=event)


def sync(stream: int = 0) -> Row:
    return Row(Kind.SYNC, stream=stream, site=0)


def with_changes(part: str, **changes: Any) -> Cluster:
    """A100 with some numbers of its `gpu`, `network` or `host` changed."""
    return A100.model_copy(update={part: getattr(A100, part).model_copy(update=changes)})


def longest_path(trace: Trace, on: Cluster) -> dict[Any, float]:
    """Time of every node of the program's graph: ("host", row), ("start", row), ("end", row)."""
    cost, graph = costs(trace, on), nx.DiGraph()
    streams = 1 + max([0, *trace.columns["stream"].tolist()])
    tail: dict[int, Any] = dict.fromkeys(range(streams), IDLE)
    events: dict[int, Any] = {}
    for index, row in enumerate(trace.rows()):
        host = ("host", index)
        graph.add_edge(("host", index - 1), host, seconds=cost.host[index])
        if row.kind <= Kind.COLLECTIVE:
            graph.add_edge(host, ("start", index), seconds=0.0)
            graph.add_edge(tail[row.stream], ("start", index), seconds=0.0)
            graph.add_edge(("start", index), ("end", index), seconds=cost.solo[index])
            tail[row.stream] = ("end", index)
        elif row.kind == Kind.RECORD:
            events[row.event] = tail[row.stream]
        elif row.kind == Kind.WAIT and row.event in events:
            graph.add_edge(tail[row.stream], ("wait", index), seconds=0.0)
            graph.add_edge(events[row.event], ("wait", index), seconds=0.0)
            tail[row.stream] = ("wait", index)
        elif row.kind == Kind.SYNC:
            graph.add_edge(tail[row.stream], host, seconds=0.0)
        elif row.kind == Kind.SYNC_EVENT and row.event in events:
            graph.add_edge(events[row.event], host, seconds=0.0)
        elif row.kind == Kind.SYNC_ALL:
            for end in tail.values():
                graph.add_edge(end, host, seconds=0.0)
    times: dict[Any, float] = {}
    for node in nx.topological_sort(graph):
        before = (times[start] + edge["seconds"] for start, _, edge in graph.in_edges(node, data=True))
        times[node] = max(before, default=0.0)
    return times


# ---- made-up results

STEP = {"zero3": 3.0, "unordered": 2.0, "event": 2.0, "fixed": 2.1, "device-sync": 2.5}


def cell(table: str, variant: str, **changes: Any) -> dict[str, Any]:
    hpz = 1 if variant == "zero3" else 8
    made: dict[str, Any] = {
        "table": table,
        "run_id": f"{variant}_{changes.get('gpus', 64)}",
        "model": "llama2-7b",
        "variant": variant,
        "release": "0.19.8",
        "nodes": 8,
        "ranks_per_node": 8,
        "hpz": hpz,
        "gpus": 64,
        "micro_batch": 1,
        "sequence_length": 2048,
        "gradient_accumulation": 1,
        "activation_checkpointing": True,
        "prefetch_bucket": 50_000_000,
        "max_live_parameters": 10**9,
        "gpu": "a100-sxm-80gb",
        "network": "ethernet-12.5gbps",
        "host": "server",
        "evidence": "simulated-time",
        "step_seconds": STEP[variant],
        "tokens_per_second": 64 * 2048 / STEP[variant],
        "host_blocked_seconds": 0.5,
        "blocked_at_copy_seconds": 0.1 if variant == "fixed" else 0.0,
        "exposed_seconds": STEP[variant] - 1,
        "node_nic_bytes": 4e10 if variant == "zero3" else 2e10,
        "gpu_nvlink_bytes": 4e10,
        "peak_bytes": 10**10,
        "margin_min_us": 50.0,
        "margin_median_us": 900.0,
        "parameters_gathered": 0 if variant == "zero3" else 10,
        "overtaken": 0,
    }
    made |= {f"limit_{name}": 0.0 for name in LIMITED_BY} | {"limit_nic": STEP[variant]}
    return made | changes


def made_up() -> Simulated:
    """Every table of a small study."""
    cells = [cell("sync_cost", variant) for variant in STEP]
    cells += [
        cell("windows", "unordered"),
        cell("windows", "unordered", micro_batch=16, margin_min_us=-5.0, overtaken=3),
        cell("windows", "unordered", model="llama2-13b", margin_min_us=1e6),
        cell("windows", "unordered", model="llama2-toy", parameters_gathered=0, margin_min_us=None),
    ]
    cells += [
        cell("scaling", "fixed", gpus=gpus, tokens_per_second=gpus * rate)
        for gpus, rate in ((16, 100.0), (64, 90.0), (1024, 50.0))
    ]
    cells += [
        cell("hpz_sizes", "zero3"),
        cell("hpz_sizes", "fixed", hpz=4),
        cell("hpz_sizes", "fixed", hpz=16),
    ]
    margins = [
        {**{k: c[k] for k in ("run_id", "network", "model", "micro_batch", "nodes", "evidence")}, **rest}
        for c in cells
        if c["table"] == "windows"
        for rest in ({"parameter": "a", "margin_us": -3.0}, {"parameter": "b", "margin_us": 10.0})
    ]
    return Simulated("paper", pd.DataFrame(cells), pd.DataFrame(margins))
