"""Tells the observers of a machine what each op touches."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch

from harness.device.memory import accesses
from harness.device.observe import OpKind, OpRecord
from harness.device.operators import Operator
from harness.device.streams import Machine

Tensor = torch.Tensor


def tell_op(
    machine: Machine,
    operator: Operator,
    reads: Iterable[Tensor],
    writes: Sequence[Tensor],
    kind: OpKind = "op",
    stream: int | None = None,
) -> None:
    """Of an ATen operator, on the current stream if none is named."""
    if operator.overwrites:
        unread = {id(t) for t in writes}
        reads = [t for t in reads if id(t) not in unread]
    record = OpRecord(
        index=machine.ops,
        name=operator.name,
        stream=machine.current.id if stream is None else stream,
        kind=kind,
        reads=accesses(reads),
        writes=accesses(writes),
        pointwise=operator.pointwise,
    )
    tell(machine, record, writes)


def tell(machine: Machine, record: OpRecord, tensors: Sequence[Tensor]) -> None:
    """`tensors` are those whose content the recorder of values writes down."""
    for observer in machine.observers:
        observer.on_op(record)
    if machine.recorder is not None:
        machine.recorder(record, tensors)
