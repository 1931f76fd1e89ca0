"""What a gloo collective puts on the wire between nodes, as measured with interface counters on `hpz cluster`.

Measured with torch 2.13 on 2 nodes × 1 and × 2 ranks, 4 KiB to 8 MiB, links of 50 Mbit/s and 1 Gbit/s; `sent_bytes`
agrees with the counters within 3 % from 4 KiB on. Two findings matter for hpZ: gloo has no reduce-scatter of its own
(torch runs it as an all-reduce, at twice the volume that NCCL needs), and its ring crosses each node's link once.
"""

from __future__ import annotations

from dataclasses import dataclass

SEGMENT = 1448  # payload of a TCP segment on Ethernet with time stamps
HEADERS = 66  # Ethernet, IPv4 and TCP headers of a segment or an acknowledgement
SEGMENTS_PER_ACKNOWLEDGEMENT = 2  # delayed acknowledgement (RFC 1122)
MESSAGE = 360  # a message's own header, its two notifications, and their TCP headers and acknowledgements

RING_PASSES = {"all_gather": 1, "reduce_scatter": 2, "all_reduce": 2}
MESSAGES_A_STEP = 2  # gloo cuts each ring step in two, to overlap them


@dataclass(frozen=True)
class Crossing:
    """What one collective sends from one node to others: payload in bytes, and messages."""

    payload: float
    messages: int


def crossing(operation: str, nbytes: int, nodes: int, ranks_per_node: int) -> Crossing:
    """The busiest node's share of one collective over a group of `nodes` × `ranks_per_node` contiguous ranks.

    `nbytes` is the size of the whole tensor: the gathered one for all_gather, the input for reduce_scatter. Raises
    KeyError for an operation that was not measured.
    """
    world = nodes * ranks_per_node
    if nodes == 1:
        return Crossing(0.0, 0)
    if operation == "broadcast":
        # A binomial tree from rank 0: on two nodes each of the first node's ranks feeds one of the second's.
        copies = ranks_per_node
        return Crossing(float(copies * nbytes), copies)
    passes = RING_PASSES[operation]
    return Crossing(passes * nbytes * (world - 1) / world, passes * MESSAGES_A_STEP * (world - 1))


def wire_bytes(sent: Crossing, received: Crossing | None = None) -> float:
    """Bytes on the wire, headers and acknowledgements included; a ring's node receives as much as it sends."""
    back = (received or sent).payload
    segments = sent.payload / SEGMENT + back / SEGMENT / SEGMENTS_PER_ACKNOWLEDGEMENT
    return sent.payload + segments * HEADERS + sent.messages * MESSAGE


def sent_bytes(operation: str, nbytes: int, nodes: int, ranks_per_node: int) -> float:
    """Bytes that the busiest node puts on its link for one collective."""
    sent = crossing(operation, nbytes, nodes, ranks_per_node)
    return wire_bytes(sent, Crossing(0.0, 0) if operation == "broadcast" else sent)
