"""What one collective takes on a cluster, alone, and what it sends over which wire.

The usual latency-bandwidth formulas (Thakur, Rabenseifner, Gropp 2005; Patarasuk, Yuan 2009; NCCL's rings and double
binary trees), with the node's NIC shared by its ranks.
"""

from __future__ import annotations

from functools import cache
from math import ceil, log2
from typing import NamedTuple

from harness.hardware import Cluster

TWICE = {"all_reduce"}  # reduce-scatter and all-gather in one


class Wire(NamedTuple):
    """One collective on one rank, alone."""

    seconds: float
    latency: float  # the part of `seconds` that no bandwidth shortens
    nvlink_bytes: float  # that this GPU sends inside its node
    nic_bytes: float  # that this node sends to others, the groups beside this one included


class Layout(NamedTuple):
    """How a group lies on the nodes."""

    size: int  # ranks
    nodes: int
    per_node: int  # ranks of the group on a node
    siblings: int  # groups like this one that share a node's NIC


@cache
def layout(ranks: tuple[int, ...], ranks_per_node: int) -> Layout:
    """The layout of a group of global ranks; nodes hold ranks in blocks."""
    nodes = len({rank // ranks_per_node for rank in ranks})
    per_node = ceil(len(ranks) / nodes)
    return Layout(len(ranks), nodes, per_node, max(1, ranks_per_node // per_node))


def collective(op: str, payload: int, where: Layout, on: Cluster) -> Wire:
    """One collective alone; `payload` in bytes as `harness.device.observe.Collective` counts it."""
    if where.size == 1:
        return Wire(on.gpu.kernel_seconds, on.gpu.kernel_seconds, 0.0, 0.0)
    if op in ("all_to_all", "all_to_all_single"):
        return _direct(payload, where, on)
    candidates = [_ring(op, payload, where, on)]
    if op in ("all_reduce", "broadcast", "reduce"):
        candidates.append(_tree(op, payload, where, on))
    if on.network.algorithm == "hierarchical" and 1 < where.nodes < where.size:
        candidates.append(_hierarchical(op, payload, where, on))
    return min(candidates, key=lambda wire: wire.seconds)


def _rates(where: Layout, on: Cluster) -> tuple[float, float]:
    """Bytes/s inside the node for one GPU; between nodes for one group."""
    inside = on.gpu.nvlink_bandwidth * on.gpu.nvlink_efficiency
    return inside, on.network.bandwidth / where.siblings


def _ring(op: str, payload: int, where: Layout, on: Cluster) -> Wire:
    """Every edge carries (p - 1) / p of the payload, twice that for all_reduce; the slowest edge sets the pace."""
    rounds = 2 if op in TWICE or (on.network.algorithm == "gloo" and op == "reduce_scatter") else 1
    edge = rounds * payload * (where.size - 1) / where.size
    inside, between = _rates(where, on)
    crossings = where.nodes if where.nodes > 1 else 0
    hops = where.size - 1
    outer = hops * crossings / where.size
    latency = rounds * ((hops - outer) * on.gpu.nvlink_latency + outer * on.network.latency)
    slowest = max(edge / inside if where.per_node > 1 else 0.0, edge / between if crossings else 0.0)
    nic = edge * where.siblings if crossings else 0.0
    return Wire(slowest + latency, latency, edge if where.per_node > 1 else 0.0, nic)


def _tree(op: str, payload: int, where: Layout, on: Cluster) -> Wire:
    """A chain inside the node, a binary tree between nodes; pipelined, so bandwidth counts once each way."""
    rounds = 2 if op in TWICE else 1
    depth = ceil(log2(where.nodes)) if where.nodes > 1 else 0
    inside, between = _rates(where, on)
    latency = rounds * ((where.per_node - 1) * on.gpu.nvlink_latency + depth * on.network.latency)
    bytes_moved = rounds * payload
    slowest = max(
        bytes_moved / inside if where.per_node > 1 else 0.0, bytes_moved / between if where.nodes > 1 else 0.0
    )
    nic = bytes_moved * where.siblings if where.nodes > 1 else 0.0
    return Wire(slowest + latency, latency, bytes_moved if where.per_node > 1 else 0.0, nic)


def _hierarchical(op: str, payload: int, where: Layout, on: Cluster) -> Wire:
    """Between nodes for each local rank's part, then inside the node; the two stages one after the other."""
    rounds = 2 if op in TWICE else 1
    inside, between = _rates(where, on)
    outer = rounds * payload * (where.nodes - 1) / where.nodes
    inner = rounds * payload * (where.per_node - 1) / where.per_node
    latency = rounds * ((where.nodes - 1) * on.network.latency + (where.per_node - 1) * on.gpu.nvlink_latency)
    return Wire(outer / between + inner / inside + latency, latency, inner, outer * where.siblings)


def _direct(payload: int, where: Layout, on: Cluster) -> Wire:
    """Every rank sends its part to every other; all GPUs of a node share its NIC."""
    inside, between = _rates(where, on)
    each = payload / where.size
    inner = each * (where.per_node - 1)
    outer = each * (where.size - where.per_node) * where.per_node
    latency = on.network.latency if where.nodes > 1 else on.gpu.nvlink_latency
    return Wire(max(inner / inside, outer / between) + latency, latency, inner, outer * where.siblings)
