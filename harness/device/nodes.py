"""On which stream each node of autograd's graphs was made: torch numbers nodes, and streams change seldom."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from harness.device.torch_private import next_node_number

if TYPE_CHECKING:
    from harness.device.streams import Stream

KEPT = 4096  # changes of stream that are remembered; older nodes count as made on the oldest of these streams
MARK = "hpz stream"  # in the metadata of a node that torch does not number


class NodeStreams:
    """On which stream each node of autograd's graphs was made, by the number that torch gave it."""

    def __init__(self, stream: Stream) -> None:
        self.starts, self.streams = [0], [stream]

    def switch(self, stream: Stream) -> None:
        """Nodes are made on this stream from now on."""
        number = next_node_number()
        if number == self.starts[-1]:  # none was made on the last one
            self.starts.pop()
            self.streams.pop()
        if self.streams and self.streams[-1] is stream:
            return
        self.starts.append(number)
        self.streams.append(stream)
        if len(self.starts) > KEPT:
            del self.starts[: KEPT // 2], self.streams[: KEPT // 2]

    def alone(self, stream: Stream) -> bool:
        """Whether every node was made on this stream."""
        return len(self.streams) == 1 and self.streams[0] is stream

    def of_numbered(self, number: int) -> Stream:
        return self.streams[max(0, bisect_right(self.starts, number) - 1)]

    def of(self, node: Any) -> Stream:
        """The stream of a node. A leaf's AccumulateGrad has no number: its own mark says where it was made."""
        if is_leaf(node):
            return node.metadata.get(MARK) or self.streams[-1]
        return self.of_numbered(node._sequence_nr())

    def mark_leaves(self, node: Any) -> None:
        """Remember on which stream the leaves right behind a node were made, if nobody has yet: with that node."""
        for leaf, _ in node.next_functions:
            if is_leaf(leaf) and MARK not in leaf.metadata:
                leaf.metadata[MARK] = self.of(node)


def is_leaf(node: Any) -> bool:
    return type(node).__name__ == "AccumulateGrad"


def graph_of(roots: Iterable[Any]) -> list[Any]:
    """All nodes that a backward pass from these may reach, the newest first and leaves last."""
    found, todo = dict.fromkeys(roots), list(roots)
    while todo:
        for node, _ in todo.pop().next_functions:
            if node is not None and node not in found:
                found[node] = None
                todo.append(node)
    return sorted(found, key=lambda node: -1 if is_leaf(node) else node._sequence_nr(), reverse=True)
