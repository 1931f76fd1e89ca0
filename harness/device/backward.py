"""Streams in a backward pass, as CUDA's autograd engine has them.

A node runs on the stream on which it was made, its hooks with it. Where a gradient goes from one stream to another,
the consumer's stream waits for the producer's, and the gradient is recorded on it. Gradients of one input are added up
on the consumer's stream. At the end the caller's stream waits for all streams on which leaves were accumulated
(PyTorch notes, "Stream semantics of backward passes"; torch/csrc/autograd/engine.cpp, input_buffer.cpp).

The engine of CPU tensors knows no streams, so that this module tells it when to change them: whoever asks for the
current stream during a pass is given that of the node at work. A pass all of whose nodes were made on the caller's
stream is left alone and costs nothing. CUDA's engine has a thread of its own for the device, while the caller waits;
here the caller does its work, so that what a hook finds in `threading.local` differs, and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch

from harness.device.memory import record_stream
from harness.device.nodes import graph_of, is_leaf
from harness.device.streams import Event, Machine, Stream
from harness.device.torch_private import EVENTS_AT_ONCE, current_node, functions_off

Edge = tuple[Any, int]  # a node and the number of one of its inputs


class BackwardPass:
    """One call of the engine."""

    def __init__(self, machine: Machine, roots: Sequence[Any], leaves: Sequence[Any] | None) -> None:
        """`roots` and `leaves` are nodes; leaves None: all that the graph has."""
        self.machine, self.caller = machine, machine.current
        self.outside = current_node()  # of an outer pass, while no node of this one is at work
        self.node: Any = None  # the one at work
        self.ready: dict[
            Edge, tuple[Stream, Event | None]
        ] = {}  # where an input was made ready, if elsewhere when
        self.sums: list[Stream] = []  # where the gradients of the node at work are added to others
        self.ops_before_sums = 0
        self.ended = False
        nodes = graph_of(roots)
        for node in reversed(nodes):  # a leaf is made with the first node that uses it
            machine.nodes.mark_leaves(node)
        self.streams = {node: machine.nodes.of(node) for node in nodes}
        ends = [node for node in nodes if is_leaf(node)] if leaves is None else leaves
        self.ends = dict.fromkeys(self.streams[node] for node in ends if node in self.streams)
        self.handles = list(self._watch(roots))

    def _watch(self, roots: Sequence[Any]) -> Iterator[Any]:
        """Hooks where gradients change their stream."""
        streams = self.streams
        edges = [(node, to) for node in streams for to, _ in node.next_functions if to is not None]
        crossed = {to for node, to in edges if streams[node] is not streams[to]}
        for node in dict.fromkeys(node for node, to in edges if to in crossed):
            yield node.register_hook(self._hand_over(node))
        outside = [root for root in dict.fromkeys(roots) if streams[root] is not self.caller]
        for root in outside:
            wait(streams[root], self.caller)
        for node in crossed.union(outside):
            yield node.register_prehook(self._enter(node, root=node in outside))

    def _enter(self, node: Any, root: bool) -> Callable[[Any], None]:
        def enter(gradients: Sequence[torch.Tensor | None]) -> None:
            self.follow()
            if root:  # what it is given was made on the caller's stream
                for gradient in gradients:
                    record_stream(gradient, self.streams[node])

        return enter

    def _hand_over(self, node: Any) -> Callable[[Any, Any], None]:
        def hand_over(made: Sequence[torch.Tensor | None], _: Any) -> None:
            self.follow()
            self.sums, self.ops_before_sums = [], self.machine.ops
            for gradient, (to, number) in zip(made, node.next_functions, strict=False):
                if to is not None and gradient is not None:
                    self._give(gradient, self.streams[node], (to, number))

        return hand_over

    def _give(self, gradient: torch.Tensor, producer: Stream, edge: Edge) -> None:
        """What InputBuffer::add does with a gradient for the input of a node."""
        consumer = self.streams[edge[0]]
        elsewhere = producer is not consumer
        if elsewhere:
            record_stream(gradient, consumer)
        if edge in self.ready:
            self.sums.append(consumer)
            if elsewhere:
                wait(consumer, producer)
            self._await(edge)
            self.ready[edge] = consumer, None
        elif elsewhere and EVENTS_AT_ONCE:
            wait(consumer, producer)
            self.ready[edge] = consumer, None
        else:
            self.ready[edge] = producer, producer.record_event() if elsewhere else None

    def _await(self, edge: Edge) -> None:
        _, event = self.ready[edge]
        if event is not None:
            self.streams[edge[0]].wait_event(event)

    def follow(self) -> None:
        """Make the stream of the node at work the current one."""
        node = current_node()
        if node is self.node:
            if self.sums:
                done = self.machine.ops - self.ops_before_sums
                self.machine.current = self.sums[min(done, len(self.sums) - 1)]
        elif node is not self.outside:
            self._start(node)
        elif self.node is not None:
            self.end()

    def _start(self, node: Any) -> None:
        self.node, self.sums = node, []
        self.machine.current = self.streams.get(node) or self.machine.nodes.of(node)
        for edge in [edge for edge in self.ready if edge[0] is node]:
            self._await(edge)
            del self.ready[edge]

    def end(self) -> None:
        """All nodes are done: the caller's stream waits, before what was queued for the end of the pass runs."""
        if not self.ended:
            self.ended = True
            self.machine.current = self.caller
            for stream in self.ends:
                if stream is not self.caller:
                    wait(self.caller, stream)

    def forget(self) -> None:
        for handle in self.handles:
            handle.remove()
        self.machine.current = self.caller


def wait(waiting: Stream, awaited: Stream) -> None:
    waiting.wait_event(awaited.record_event())


def run(machine: Machine, engine: Callable[..., Any], roots: Sequence[Any], *args: Any, **kwargs: Any) -> Any:
    """Call autograd's engine, `engine(roots, *args, **kwargs)`, on the streams that CUDA would have used."""
    if machine.nodes.alone(machine.current):
        return engine(roots, *args, **kwargs)
    inputs = args[3] if len(args) > 3 else kwargs.get("inputs", ())
    with functions_off():
        passing = BackwardPass(machine, nodes_of(roots), nodes_of(inputs) if inputs else None)
    outer, machine.backward = machine.backward, passing
    try:
        result = engine(roots, *args, **kwargs)
        passing.end()
        return result
    finally:
        machine.backward = outer
        passing.forget()


def nodes_of(things: Iterable[Any]) -> list[Any]:
    """The nodes at which the gradients of tensors, or of edges of a graph, arrive."""
    nodes = [
        thing.grad_fn or _leaf(thing) if isinstance(thing, torch.Tensor) else thing.node for thing in things
    ]
    return [node for node in nodes if node is not None]


def _leaf(tensor: torch.Tensor) -> Any:
    if not tensor.requires_grad:
        return None
    with torch.enable_grad():
        return tensor.view_as(tensor).grad_fn.next_functions[0][0]  # type: ignore[union-attr]
