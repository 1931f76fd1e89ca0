"""Memory that nothing has written: which bytes, where their content was carried, and who computes with it.

To move memory without content from place to place is no use of it: a copy, a cast, an all-gather leave their target as
unwritten as their source was, element by element, and so does an op that works element by element, as on the padding of
a flat buffer. What is overwritten or left aside before anything else computes with it does no harm. Any other op that
reads it uses it, and so does the host that reads a value, and a message to another rank of which nothing was written.
One that is written in part is a buffer of fixed size behind what it says of itself (pipelines send such headers): the
rank that gets it reads what was written. Of collectives this rank follows what it gets back itself, which stands for
all ranks where they do alike. What a copy brings to pageable host memory is not followed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from harness.race.findings import Origin, Storage, Touch
from harness.race.memory import Footprint, Written

CONVEYS = {"copy_", "_to_copy", "clone", "cat", "_foreach_copy_", "constant_pad_nd"} | {
    "all_gather",
    "all_reduce",
    "broadcast",
    "reduce",
    "reduce_scatter",
    "send_recv",
}
"""Ops that leave their target unwritten where their source was, besides those that work element by element."""

HOST_COPY = "_to_copy"  # without a target that is followed: new pageable memory, for the host to look at

KEEPS = {"index_put_", "_index_put_impl_", "index_copy_", "index_fill_", "scatter_", "masked_fill_"} | {
    "masked_scatter_",
    "put_",
    "fill_diagonal_",
    "_unsafe_index_put",
}
"""Ops that write a part of their target, which part only the data says, and leave the rest alone. The whole of it then
counts as written."""

Access = tuple[int, Footprint]


@dataclass(frozen=True, slots=True)
class Carried:
    """A read of unwritten memory by an op that leaves its target unwritten there."""

    access: Access
    hole: Touch  # the first of the unwritten bytes
    gaps: list[tuple[int, int]]  # of the bytes that it read, those that are unwritten
    origin: Origin


def carry(
    name: str,
    carried: Sequence[Carried],
    reads: Sequence[Access],
    writes: Sequence[Access],
    storages: dict[int, Storage],
    place: int,
) -> list[Carried]:
    """Mark in the targets of an op what it brought there without content; returns what it did otherwise use.

    `place` is this rank's among the ranks of a collective.
    """
    used = []
    if name == HOST_COPY and not writes:
        return list(carried)
    for at, one in [(at, one) for one in carried for at, access in enumerate(reads) if access == one.access]:
        if name == "send_recv":
            if sum(last - first for first, last in one.gaps) == one.access[1].nbytes:
                used.append(one)
            continue
        if name not in CONVEYS:
            if len(writes) != 1 or writes[0][1].nbytes != one.access[1].nbytes:
                used.append(one)  # it broadcasts or compares, or has several results
                continue
            if one.origin.use is None:
                one = replace(one, origin=one.origin._replace(use=one.hole))
        if way := _way(name, at, reads, writes, place):
            _mark(one, way, storages)
    return used


class Way(NamedTuple):
    """Bytes [first, first + size) of a read that go to the bytes from `start` on of a write, `width` of them."""

    storage: int
    view: Footprint
    start: int
    width: int
    first: int
    size: int


def _way(name: str, at: int, reads: Sequence[Access], writes: Sequence[Access], place: int) -> Way | None:
    """Where the read number `at` goes; None where this rank cannot follow it."""
    size = reads[at][1].nbytes
    if name == "_foreach_copy_" and at < len(writes):
        return Way(*writes[at], 0, writes[at][1].nbytes, 0, size)
    if name == "all_gather" and len(writes) > 1:
        return Way(*writes[place], 0, size, 0, size)
    if len(writes) != 1 or (name == "reduce_scatter" and len(reads) > 1 and at != place):
        return None
    storage, view = writes[0]
    if name == "all_gather":
        return Way(storage, view, place * size, size, 0, size)
    if name == "reduce_scatter" and len(reads) == 1:
        return Way(storage, view, 0, view.nbytes, place * view.nbytes, view.nbytes)
    if name == "cat":
        total, before = (sum(read.nbytes for _, read in some) for some in (reads, reads[:at]))
        return Way(storage, view, before * view.nbytes // total, size * view.nbytes // total, 0, size)
    return Way(storage, view, 0, view.nbytes, 0, size)


def _mark(one: Carried, way: Way, storages: dict[int, Storage]) -> None:
    block = storages[way.storage]
    if block.written is None:
        block.written = Written(block.nbytes, full=True)
    for gap in one.gaps:
        low, high = (min(max(end - way.first, 0), way.size) for end in gap)
        # A cast makes elements wider or narrower.
        ends = (way.start + end * way.width // way.size for end in (low, high))
        for first, last in way.view.part(*ends):
            block.written.remove(first, last)
            block.origin = one.origin
    if block.written.full:
        block.written = None
