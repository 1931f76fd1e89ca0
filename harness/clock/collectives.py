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
LONG_BYTES = (
    512 * 2**10
)  # what a rank sends at once that pays half of what a long one pays a hop: NCCL changes its
# protocol (LL, LL128, Simple) by size, and a slice of Simple holds as many bytes


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
    if op in ("all_reduce", "broadcast", "reduce") and on.network.algorithm != "gloo":
        candidates.append(_tree(op, payload, where, on))
    if on.network.algorithm == "hierarchical" and 1 < where.nodes < where.size:
        candidates.append(_hierarchical(op, payload, where, on))
    return min(candidates, key=lambda wire: wire.seconds)


def _rates(where: Layout, on: Cluster) -> tuple[float, float]:
    """Bytes/s inside the node for one GPU; between nodes for one group."""
    inside = on.gpu.nvlink_bandwidth * on.gpu.nvlink_efficiency
    return inside, on.network.bandwidth / where.siblings


def _hops(part: float, on: Cluster) -> tuple[float, float]:
    """Seconds of one hop inside a node and between nodes of a `part` in bytes, that of one rank.

    Rings synchronise at every hop: little for short messages (NCCL's LL protocols), more for long ones (Simple).
    """
    long = part / (part + LONG_BYTES)
    return on.gpu.nvlink_latency + long * on.gpu.nvlink_step, on.network.latency + long * on.network.step


def _ring(op: str, payload: int, where: Layout, on: Cluster) -> Wire:
    """Every edge carries (p - 1) / p of the payload, twice that for all_reduce; the slowest edge sets the pace."""
    rounds = 2 if op in TWICE or (on.network.algorithm == "gloo" and op == "reduce_scatter") else 1
    edge = rounds * payload * (where.size - 1) / where.size
    inside, between = _rates(where, on)
    crossings = where.nodes if where.nodes > 1 else 0
    hops = where.size - 1
    outer = hops * crossings / where.size
    inner_hop, outer_hop = _hops(payload / where.size, on)
    latency = rounds * ((hops - outer) * inner_hop + outer * outer_hop)
    slowest = max(edge / inside if where.per_node > 1 else 0.0, edge / between if crossings else 0.0)
    nic = edge * where.siblings if crossings else 0.0
    return Wire(slowest + latency, latency, edge if where.per_node > 1 else 0.0, nic)


def _tree(op: str, payload: int, where: Layout, on: Cluster) -> Wire:
    """A chain inside the node, a binary tree between nodes; pipelined, so bandwidth counts once each way.

    Of two nodes each sends the payload once: one its part of the sum, the other the sum.
    """
    rounds = 2 if op in TWICE else 1
    depth = ceil(log2(where.nodes)) if where.nodes > 1 else 0
    inside, between = _rates(where, on)
    inner_hop, outer_hop = _hops(payload / where.per_node, on)
    latency = rounds * ((where.per_node - 1) * inner_hop + depth * outer_hop)
    inner = rounds * payload if where.per_node > 1 else 0.0
    outer = {1: 0, 2: payload}.get(where.nodes, rounds * payload)
    slowest = max(inner / inside, outer / between)
    return Wire(slowest + latency, latency, inner, outer * where.siblings)


def _hierarchical(op: str, payload: int, where: Layout, on: Cluster) -> Wire:
    """Between nodes for each local rank's part, then inside the node; the two stages one after the other."""
    rounds = 2 if op in TWICE else 1
    inside, between = _rates(where, on)
    outer = rounds * payload * (where.nodes - 1) / where.nodes
    inner = rounds * payload * (where.per_node - 1) / where.per_node
    inner_hop, outer_hop = _hops(payload / where.size, on)
    latency = rounds * ((where.nodes - 1) * outer_hop + (where.per_node - 1) * inner_hop)
    return Wire(outer / between + inner / inside + latency, latency, inner, outer * where.siblings)


def _direct(payload: int, where: Layout, on: Cluster) -> Wire:
    """Every rank sends its part to every other; all GPUs of a node share its NIC."""
    inside, between = _rates(where, on)
    each = payload / where.size
    inner = each * (where.per_node - 1)
    outer = each * (where.size - where.per_node) * where.per_node
    latency = on.network.latency if where.nodes > 1 else on.gpu.nvlink_latency
    return Wire(max(inner / inside, outer / between) + latency, latency, inner, outer * where.siblings)
