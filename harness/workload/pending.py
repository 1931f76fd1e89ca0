"""What a step measured and is still on its way to the host: recording never makes the host wait inside a step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from harness.record import StepRecord
from harness.workload.laps import Laps


@dataclass(frozen=True)
class Sent:
    """Scalars on their way to the host."""

    host: torch.Tensor  # (n,) float32, pinned
    event: Any  # after the copy; None where the device has no streams

    def arrived(self) -> bool:
        return self.event is None or bool(self.event.query())


@dataclass
class PendingStep:
    """A step whose loss and gradient norm are still on their way to the host, and maybe its validation loss."""

    sent: Sent  # loss, grad norm
    marks: tuple[Any, Any]  # before and after the step, where the device has a clock
    laps: Laps
    waits: list[tuple[Any, Any]] | None  # of the compute stream for others, each from before to after
    known: Mapping[str, Any]
    validation: Sent | None = None

    def arrived(self) -> bool:
        return self.sent.arrived() and (self.validation is None or self.validation.arrived())

    def record(self) -> StepRecord:
        """The step as recorded; all its marks have passed, for the copies' events came later."""
        loss, grad_norm = self.sent.host.tolist()
        before, after = self.marks
        return StepRecord(
            loss=loss,
            grad_norm=grad_norm,
            device_seconds=after(before) if after else None,
            exposed_comm_seconds=None if self.waits is None else sum(end(start) for start, end in self.waits),
            validation_loss=float(self.validation.host[0]) if self.validation else None,
            forward_seconds=self.laps.seconds("forward"),
            backward_seconds=self.laps.seconds("backward"),
            optimizer_seconds=self.laps.seconds("optimizer"),
            **self.known,
        )


def send_to_host(*scalars: Any) -> Sent:
    """Start the copy of some scalars, tensors or numbers, to pinned memory."""
    from deepspeed.accelerator import get_accelerator

    accelerator = get_accelerator()
    host = accelerator.pin_memory(torch.zeros(len(scalars)))
    for place, scalar in enumerate(scalars):
        if torch.is_tensor(scalar):
            host[place].copy_(scalar, non_blocking=True)
        else:
            host[place] = float("nan") if scalar is None else float(scalar)
    event = accelerator.Event() if accelerator.Event is not None else None
    if event is not None:
        event.record(accelerator.current_stream())
    return Sent(host, event)
