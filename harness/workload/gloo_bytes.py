"""What gloo's collectives put on the wire between nodes, as measured with interface counters on `hpz cluster`.

Measured with torch 2.13 on 2 nodes × 1 and × 2 ranks, 4 bytes to 8 MiB, links of 50 Mbit/s and 1 Gbit/s; the model
below agrees with the counters within 3 % from 4 KiB on (tests/unit/test_slurm_task.py holds what was counted;
tests/slurm/test_training.py counts a training anew). Two findings matter for hpZ: torch runs a reduce-scatter over
gloo as an all-reduce, at twice the volume that NCCL's ring needs; and every ring crosses each node's link once,
whatever the number of its ranks.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

SEGMENT = 1448  # payload of a TCP segment on Ethernet, with time stamps
HEADERS = 66  # Ethernet, IPv4 and TCP headers of a segment or of an acknowledgement
SEGMENTS_PER_ACKNOWLEDGEMENT = (
    2  # delayed acknowledgements (RFC 1122); fewer where the kernel merges segments
)
MESSAGE = 360  # a message's own header and its two notifications, with what TCP adds to them
PARTS = 2  # gloo cuts each rank's part in two, so that sending and reducing overlap
ELEMENT = 4  # bytes; fewer elements than parts make fewer messages

PASSES = {
    "all_gather": 1,
    "reduce_scatter": 2,
    "all_reduce": 2,
}  # of the ring; other operations are not rings


class Sized(Protocol):
    """The part of harness.device.Collective that traffic depends on."""

    @property
    def op(self) -> str: ...
    @property
    def nbytes(self) -> int: ...  # of the whole tensor: the gathered one, the one to be reduced
    @property
    def ranks(self) -> tuple[int, ...]: ...


def wire_bytes(collectives: Mapping[Sized, int], nodes: int, ranks_per_node: int) -> int:
    """Bytes that one node puts on its link for collectives and their counts, headers and acknowledgements included.

    Ranks lie on nodes in blocks; a group smaller than the world has siblings that do the same. The average over the
    nodes, which for rings is every node's. Raises KeyError for an operation that was not measured.
    """
    total = 0.0
    for collective, times in collectives.items():
        siblings = nodes * ranks_per_node / len(collective.ranks)
        total += times * group_bytes(collective, ranks_per_node) * siblings / nodes
    return round(total)


def group_bytes(collective: Sized, ranks_per_node: int) -> float:
    """Bytes on all links for one call by one group."""
    size = len(collective.ranks)
    node = [rank // ranks_per_node for rank in collective.ranks]
    crossings = sum(node[i] != node[(i + 1) % size] for i in range(size))
    if not crossings:
        return 0.0
    if collective.op == "broadcast":
        # A binomial tree of whole copies: on two nodes every rank of the first feeds one of the second.
        return (size - node.count(node[0])) * (on_wire(collective.nbytes, 0) + MESSAGE / 2)
    share = PASSES[collective.op] * (size - 1) / size
    payload = share * collective.nbytes
    messages = share * min(PARTS * size, max(1, collective.nbytes // ELEMENT))
    return crossings * (on_wire(payload, payload) + messages * MESSAGE)


def on_wire(sent: float, received: float) -> float:
    """A payload with its headers, and the acknowledgements of what comes back."""
    return sent + HEADERS * (sent / SEGMENT + received / SEGMENT / SEGMENTS_PER_ACKNOWLEDGEMENT)
