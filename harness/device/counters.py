"""What a rank has counted so far, as a value that can be subtracted; and the traffic that follows from it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, TypeVar

from harness.device.observe import Collective

Key = TypeVar("Key")


@dataclass(frozen=True, slots=True, kw_only=True)
class Counters:
    """Counts since the device was opened, or between two moments. Only the virtual device has the first three.

    On a GPU `host_syncs` and `host_blocked_seconds` are of the synchronises that DeepSpeed asks for, and of them alone.
    """

    ops: int | None = None  # issued to streams
    events_recorded: int | None = None
    stream_waits: int | None = None
    host_syncs: Mapping[tuple[str, str], int] | None = None  # (reason, source line) → times
    host_blocked_seconds: float | None = None
    collectives: Mapping[Collective, int] = field(default_factory=dict)

    def __sub__(self, earlier: Counters) -> Counters:
        return Counters(
            ops=_minus(self.ops, earlier.ops),
            events_recorded=_minus(self.events_recorded, earlier.events_recorded),
            stream_waits=_minus(self.stream_waits, earlier.stream_waits),
            host_syncs=None if self.host_syncs is None else _less(self.host_syncs, earlier.host_syncs or {}),
            host_blocked_seconds=None
            if self.host_blocked_seconds is None
            else self.host_blocked_seconds - (earlier.host_blocked_seconds or 0.0),
            collectives=_less(self.collectives, earlier.collectives),
        )

    def host_syncs_by_reason(self) -> dict[str, int]:
        total: Counter[str] = Counter()
        for (reason, _), times in (self.host_syncs or {}).items():
            total[reason] += times
        return dict(total)


def _minus(now: int | None, then: int | None) -> int | None:
    return None if now is None else now - (then or 0)


def _less(now: Mapping[Key, int], then: Mapping[Key, int]) -> dict[Key, int]:
    return {key: times - then.get(key, 0) for key, times in now.items() if times != then.get(key, 0)}


class ClusterShape(Protocol):
    """The part of harness.study.records.Shape that traffic depends on."""

    @property
    def nodes(self) -> int: ...
    @property
    def ranks_per_node(self) -> int: ...
    @property
    def hpz(self) -> int: ...


class Traffic(NamedTuple):
    """What one step moved. Bytes are those that one node sends, inside itself and to other nodes."""

    secondary_gathers: int
    host_syncs: int | None
    bytes_intra: int
    bytes_inter: int


def step_traffic(counters: Counters, shape: ClusterShape) -> Traffic:
    """The traffic behind a difference of counters."""
    syncs = None if counters.host_syncs is None else sum(counters.host_syncs.values())
    intra, inter = link_bytes(counters.collectives, shape.nodes, shape.ranks_per_node)
    return Traffic(secondary_gathers(counters.collectives, shape), syncs, intra, inter)


def secondary_gathers(collectives: Mapping[Collective, int], shape: ClusterShape) -> int:
    """All-gathers of secondary shards: those in a group of `hpz` ranks.

    With hpZ over the whole world the size tells nothing; the primary shards' group is then the one of the first
    all-gather (they are gathered before a secondary exists), and every other group of all ranks is hpZ's.
    """
    if shape.hpz == 1:
        return 0
    gathers = {
        c: times for c, times in collectives.items() if c.op == "all_gather" and len(c.ranks) == shape.hpz
    }
    if shape.hpz < shape.nodes * shape.ranks_per_node:
        return sum(gathers.values())
    primary = min((c.group for c in gathers), default=0)
    return sum(times for c, times in gathers.items() if c.group != primary)


# Bytes that cross each edge of the ring, as a share of the payload; group size p.
RING = {
    "all_gather": lambda p: (p - 1) / p,
    "reduce_scatter": lambda p: (p - 1) / p,
    "all_reduce": lambda p: 2 * (p - 1) / p,
    "broadcast": lambda p: (p - 1) / p,  # a chain of p - 1 edges, averaged over the ring's p
    "reduce": lambda p: (p - 1) / p,
}


def link_bytes(collectives: Mapping[Collective, int], nodes: int, ranks_per_node: int) -> tuple[int, int]:
    """Bytes that one node sends inside itself and to other nodes, on average over the nodes.

    Ring algorithms in rank order (Patarasuk & Yuan 2009, "Bandwidth optimal all-reduce algorithms"); all-to-all and
    its kin send directly. Ranks lie on nodes in blocks. A group smaller than the world has siblings that do the
    same, so that every rank takes part in exactly one.
    """
    intra = inter = 0.0
    for collective, times in collectives.items():
        inside, outside = _sent(collective, ranks_per_node)
        siblings = nodes * ranks_per_node / len(collective.ranks)
        intra += times * inside * siblings / nodes
        inter += times * outside * siblings / nodes
    return round(intra), round(inter)


def _sent(collective: Collective, ranks_per_node: int) -> tuple[float, float]:
    """Bytes that the whole group sends inside nodes and between them, for one call."""
    ranks = collective.ranks
    size = len(ranks)
    if size == 1:
        return 0.0, 0.0
    node = [rank // ranks_per_node for rank in ranks]
    if share := RING.get(collective.op):
        edges = [(i, (i + 1) % size) for i in range(size)]
        each = share(size) * collective.nbytes
    else:
        edges = [(i, j) for i in range(size) for j in range(size) if i != j]
        each = collective.nbytes / size
    outside = sum(node[i] != node[j] for i, j in edges)
    return (len(edges) - outside) * each, outside * each
