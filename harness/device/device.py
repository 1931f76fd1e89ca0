"""What every device offers: the interface, and plain CPU, which has nothing more."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch

from harness.device.collectives import Backend, HostTimedBackend
from harness.device.counters import Counters
from harness.device.observe import Observer
from harness.system.errors import HarnessError

DeviceKind = Literal["cpu", "virtual", "cuda"]


class Device:
    """Plain CPU: DeepSpeed's own accelerator; collectives are counted and timed."""

    kind: DeviceKind = "cpu"
    backend = "gloo"
    torch_device = torch.device("cpu")

    def __init__(self) -> None:
        self._backend: Backend | None = None

    def rendezvous(self) -> None:
        """Join the other ranks, as the environment names them."""
        import deepspeed

        deepspeed.init_distributed(dist_backend=self.backend, verbose=False)

    def connect(self) -> None:
        """Wrap DeepSpeed's communication backend. Call it after `rendezvous`, before initialize."""
        from deepspeed.comm import comm

        if not isinstance(comm.cdb, Backend):
            # deepspeed.comm calls whatever object stands here; there is no function to set it.
            comm.cdb = self._wrap(comm.cdb)
        self._backend = comm.cdb

    def _wrap(self, inner: Any) -> Backend:
        return HostTimedBackend(inner)

    @contextmanager
    def activate(self) -> Iterator[None]:
        """Inside, torch runs on this device."""
        yield

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Inside, every op runs when it is issued, as suits host work such as writing a checkpoint."""
        yield

    def use_policy(self) -> None:
        """Order ops by the policy from now on; until then they run as issued."""

    def synchronize(self) -> None:
        from deepspeed.accelerator import get_accelerator

        get_accelerator().synchronize()

    def mark(self) -> Any:
        """A moment of the compute stream: `later(earlier)` is the seconds between two, once both have passed.

        None where the device has no clock of its own.
        """
        return None

    def stream_waits(self) -> list[tuple[Any, Any]] | None:
        """Where the compute stream waited for another since this was last asked: a mark before each wait and one after.

        On plain CPU, where the host waited for collectives. None where there is no such clock.
        """
        backend = self._backend
        return [*backend.waited()] if isinstance(backend, HostTimedBackend) else None

    def peak_memory(self) -> tuple[int, int] | None:
        """Most bytes that were allocated and reserved since this was last asked; None where nobody counts them."""
        return None

    @property
    def card(self) -> str | None:
        """The name of this rank's GPU."""
        return None

    def counters(self) -> Counters:
        """What was counted so far."""
        return Counters(collectives=self._collectives())

    def _collectives(self) -> dict[Any, int]:
        return dict(self._backend.counted) if self._backend else {}

    def observe(self, observer: Observer) -> None:
        raise HarnessError(f"device {self.kind} cannot be observed; use device: virtual")
