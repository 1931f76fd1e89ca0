"""A training step of a decoder or encoder, block by block, written down as a trace without running it.

For stacks that are not traced (fully sharded data parallelism of PyTorch, ZeRO-1 and 2) and for sizes whose real trace
would take minutes: the kernels that PyTorch launches for each block, the collectives of its sharding, and the waits
between them, in the order in which the host issues them. `harness.simulate.record` traces DeepSpeed itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from harness.clock.products import Product
from harness.simulate.trace import Kind, Row, Trace, from_rows
from harness.simulate.transformer import Kernel, Step, backward_kernels, forward_kernels, head_kernels

COMPUTE, COMM = 0, 1  # streams


class _Writer:
    """Collects the rows of a step."""

    def __init__(self, step: Step) -> None:
        self.step = step
        self.rows: list[Row] = []
        self.names: dict[str, int] = {}
        self.products: dict[Product, int] = {}
        self.groups: dict[tuple[int, ...], int] = {}
        self.events = 0
        self.marks: dict[str, int] = {}  # phase → row at which it ends

    def kernels(self, kernels: list[Kernel], stream: int = COMPUTE) -> None:
        for kernel in kernels:
            flops = kernel.product.flops if kernel.product else kernel.flops
            number = -1
            if kernel.product:
                number = self.products.setdefault(kernel.product, len(self.products))
            row = Row(Kind.OP, stream, self.name(kernel.name), read=int(kernel.moved), flops=flops)
            self.rows.append(row._replace(product=number))

    def name(self, name: str) -> int:
        return self.names.setdefault(name, len(self.names))

    def record(self, stream: int) -> int:
        self.events += 1
        self.rows.append(Row(Kind.RECORD, stream, event=self.events))
        return self.events

    def wait(self, stream: int, event: int) -> None:
        self.rows.append(Row(Kind.WAIT, stream, event=event))

    def collective(self, op: str, payload: float, ranks: tuple[int, ...], tensors: float = 0.0) -> int:
        """Returns the event of its end; what it waits for is for the caller to say."""
        moved = int(payload)
        group = self.groups.setdefault(ranks, len(self.groups))
        share = moved // len(ranks)
        views = tensors * (self.step.views_of_tensor + self.step.views_of_rank * len(ranks))
        read, written = (share, moved) if op == "all_gather" else (moved, share)
        row = Row(Kind.COLLECTIVE, COMM, self.name(op), read=read, written=written, payload=moved)
        self.rows.append(row._replace(group=group, views=round(views)))
        return self.record(COMM)


def trace_of_step(step: Step) -> Trace:
    """The step as a trace; `about["marks"]` holds the rows that end its forward and its backward pass."""
    writer = _Writer(step)
    for micro in range(step.accumulation):
        _forward(writer)
        writer.marks.setdefault("forward", len(writer.rows))
        _backward(writer, last=micro == step.accumulation - 1)
        writer.marks.setdefault("backward", len(writer.rows))
    _update(writer)
    return from_rows(
        writer.rows,
        names=list(writer.names),
        sites=["gradient norm (read)"],
        groups=list(writer.groups),
        streams=["compute", "collectives"],
        products=list(writer.products),
        about=_about(step, writer),
    )


def _about(step: Step, writer: _Writer) -> dict[str, Any]:
    return {
        "model": "blocks",
        "shape": {
            "nodes": step.nodes,
            "ranks_per_node": step.ranks_per_node,
            "hpz": step.secondary_ranks or 1,
        },
        "training": {"dtype": "bf16"},
        "tokens": step.tokens * step.accumulation * step.world,
        "live_bytes": 0,
        "marks": writer.marks,
    }


def _gathered(step: Step, ranks: int) -> tuple[int, ...]:
    return tuple(range(ranks or step.world))


def _pieces(step: Step) -> list[int]:
    """Parameters of what is gathered together: the embeddings, then every block."""
    model = step.model
    return [model.vocabulary * model.hidden, *([model.of_block] * model.layers)]


def _gather(writer: _Writer, parameters: int, secondary: bool) -> int | None:
    """Issue one piece's gather; the event of its end."""
    step = writer.step
    if not step.parameters_sharded:
        return None
    ranks = step.secondary_ranks if secondary and step.secondary_ranks else step.shard_ranks
    itemsize = 2.0 if secondary and step.secondary_ranks else step.gather_itemsize
    payload = parameters * itemsize / step.pieces_of_block
    tensors = step.model.tensors_of_block / step.pieces_of_block
    group = _gathered(step, ranks)
    ends = [writer.collective("all_gather", payload, group, tensors) for _ in range(step.pieces_of_block)]
    return ends[-1]


def _ready(writer: _Writer, parameters: int, gathered: int | None, secondary: bool) -> None:
    """Let the compute stream wait for a piece, then do what its stack does before it is used."""
    step = writer.step
    if gathered is not None:
        writer.wait(COMPUTE, gathered)
        copy = Kernel("copy of a gather", 2 * step.gather_itemsize * parameters)
        writer.kernels([copy] * step.copies_of_gathers)
        if step.quantised_gathers and not (secondary and step.secondary_ranks):
            writer.kernels([Kernel("dequantise", 3.0 * parameters)])
    if step.single_precision_masters:
        writer.kernels([Kernel("cast", 6.0 * parameters)])


def _in_turn(writer: _Writer, pieces: list[int], secondary: bool) -> Iterator[int]:
    """Each piece's number once it may be computed, its gather issued some pieces ahead and held back by memory."""
    gathers: dict[int, int | None] = {}
    done: dict[int, int] = {}
    for number, parameters in enumerate(pieces):
        for ahead in range(number, min(number + writer.step.blocks_ahead + 1, len(pieces))):
            if ahead not in gathers:
                before = done.get(ahead - writer.step.blocks_ahead - 1)
                if before is not None:  # its memory is that of a piece that was computed
                    writer.wait(COMM, before)
                gathers[ahead] = _gather(writer, pieces[ahead], secondary)
        _ready(writer, parameters, gathers[number], secondary)
        yield number
        done[number] = writer.record(COMPUTE)


def _forward(writer: _Writer) -> None:
    step = writer.step
    block = forward_kernels(step)
    for number in _in_turn(writer, _pieces(step), secondary=False):
        if number:
            writer.kernels(block)
        else:
            writer.kernels([Kernel("embedding", 4.0 * step.tokens * step.model.hidden)])
    writer.kernels(head_kernels(step))


def _backward(writer: _Writer, last: bool) -> None:
    step = writer.step
    forward = forward_kernels(step)
    back = backward_kernels(forward)
    writer.kernels(backward_kernels(head_kernels(step)))
    pieces = _pieces(step)[::-1]
    for number in _in_turn(writer, pieces, secondary=True):
        if number == len(pieces) - 1:
            writer.kernels([Kernel("embedding", 8.0 * step.tokens * step.model.hidden)])
        else:
            again = step.checkpointing == "full" or (step.checkpointing == "half" and number % 2 == 0)
            writer.kernels([*forward, *back] if again else back)
        if last or not step.reduce_once:
            _reduce(writer, pieces[number])


def _reduce(writer: _Writer, parameters: int) -> None:
    """The gradients of one piece, once they are there."""
    step = writer.step
    writer.wait(COMM, writer.record(COMPUTE))
    payload = parameters * step.reduce_itemsize
    if not step.gradients_sharded:
        writer.collective("all_reduce", payload, _gathered(step, 0))
        return
    ranks = step.shard_ranks or step.world
    if step.quantised_reduction:
        _exchange(writer, parameters)
        return
    writer.collective("reduce_scatter", payload, _gathered(step, ranks), step.model.tensors_of_block)
    if ranks < step.world:  # then among the copies of the shards
        stride = tuple(range(0, step.world, ranks))
        writer.collective("all_reduce", payload / ranks, stride)


def _exchange(writer: _Writer, parameters: int) -> None:
    """ZeRO++'s qgZ: gradients in 4 bits, summed inside the node, then in 4 bits between nodes."""
    step = writer.step
    inside, between = 0.5 * parameters, 0.5 * parameters / step.ranks_per_node
    writer.kernels([Kernel("quantise", 2.5 * parameters)], COMM)
    writer.collective("all_to_all", inside, _gathered(step, step.ranks_per_node))
    writer.kernels([Kernel("sum and quantise", inside + between)], COMM)
    writer.collective("all_to_all", between, tuple(range(0, step.world, step.ranks_per_node)))
    writer.kernels([Kernel("sum", 5.0 * between)], COMM)


def _update(writer: _Writer) -> None:
    """Gradient norm, which the host reads, and the optimizer over this rank's part."""
    step = writer.step
    writer.wait(COMPUTE, writer.record(COMM))
    own = step.model.parameters / (step.shard_ranks or step.world)
    writer.kernels([Kernel("norm", 4.0 * own)])
    writer.wait(COMM, writer.record(COMPUTE))
    writer.wait(COMPUTE, writer.collective("all_reduce", 4, _gathered(step, 0)))
    writer.rows.append(Row(Kind.SYNC, COMPUTE, site=0))
    writer.kernels([Kernel("adam", own * step.update_bytes / 4) for _ in range(4)])
    if not step.parameters_sharded and step.gradients_sharded:  # every rank needs the others' new weights
        writer.wait(COMM, writer.record(COMPUTE))
        whole = step.model.parameters * step.gather_itemsize
        writer.wait(COMPUTE, writer.collective("all_gather", whole, _gathered(step, step.shard_ranks)))
