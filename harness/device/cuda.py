"""A real GPU: what each rank has of it, which backend its ranks speak through, and how often the host waits for it.

`share` is the one place where the backend is chosen: ranks with a GPU each use NCCL; where ranks share one, gloo,
because NCCL refuses two ranks on the same GPU. What gloo does with CUDA tensors is written down in harness.device.gloo.
"""

from __future__ import annotations

import math
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch

from harness.device.collectives import Backend
from harness.device.counters import Counters
from harness.device.device import Device, DeviceKind
from harness.device.gloo import GlooBackend
from harness.device.stall import StallCopies, cycles_per_microsecond
from harness.system.errors import HarnessError

USABLE = 0.9  # of a shared GPU's memory; each rank's CUDA context takes some of the rest


@dataclass(frozen=True)
class Share:
    """What one rank has of this machine's GPUs."""

    gpu: int
    backend: Literal["nccl", "gloo"]
    memory_fraction: float | None  # of its GPU; None: the GPU is its own


def share(local_rank: int, local_size: int, gpus: int) -> Share:
    """The GPU of a rank, one of `local_size` on a machine with `gpus` of them. Raises HarnessError without any."""
    if gpus < 1:
        raise HarnessError("device cuda: no GPU is visible here; use device: virtual or cpu")
    if local_size <= gpus:
        return Share(local_rank % gpus, "nccl", None)
    return Share(local_rank % gpus, "gloo", USABLE / math.ceil(local_size / gpus))


def prepare_process() -> None:
    """What must be settled before CUDA is first used, in the process that ranks are forked from. No CUDA call here.

    Raises HarnessError where torch was built without CUDA.
    """
    if torch.version.cuda is None:
        raise HarnessError("device cuda: this torch was built without CUDA; use device: virtual or cpu")
    os.environ["DS_ACCELERATOR"] = "cuda"
    # torch then counts GPUs without starting CUDA, which a process that forks must not do.
    os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"
    install()


class HostWaits:
    """How often and how long this rank's host waited in a synchronise of a stream, an event or the device.

    Waits inside gloo and reads such as `.item()` are not among them: every variant has the same.
    """

    def __init__(self) -> None:
        self.times: Counter[tuple[str, str]] = Counter()  # (waited for, source line) → times
        self.seconds = 0.0

    @contextmanager
    def timed(self, reason: str) -> Iterator[None]:
        frame = sys._getframe(3)  # past contextlib and the synchronise itself: the line that asked for it
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds += time.perf_counter() - started
            self.times[reason, f"{'/'.join(frame.f_code.co_filename.split('/')[-3:])}:{frame.f_lineno}"] += 1


class ComputeWaits:
    """How long the compute stream, which is the default one, waited for others: for communication, in DeepSpeed.

    Its own collectives wait inside NCCL and are not among them. Nobody listens until `opened`.
    """

    def __init__(self) -> None:
        self.opened = False
        self.waits: list[tuple[Any, Any]] = []

    @contextmanager
    def around(self, stream: torch.cuda.Stream) -> Iterator[None]:
        if not self.opened or stream.stream_id != 0:
            yield
            return
        before = _Mark(_timed_event(stream))
        try:
            yield
        finally:
            self.waits.append((before, _Mark(_timed_event(stream))))


WAITS = HostWaits()
COMPUTE_WAITS = ComputeWaits()


class WatchedStream(torch.cuda.Stream):
    """A CUDA stream whose synchronise is timed, and whose waits for other streams are where it computes."""

    def synchronize(self) -> None:
        with WAITS.timed("stream"):
            super().synchronize()

    def wait_event(self, event: torch.cuda.Event) -> None:  # type: ignore[override]
        """Also what `wait_stream` comes down to."""
        with COMPUTE_WAITS.around(self):
            super().wait_event(event)


class WatchedEvent(torch.cuda.Event):
    """A CUDA event whose synchronise is timed."""

    def synchronize(self) -> None:
        with WAITS.timed("event"):
            super().synchronize()


def install() -> None:
    """Make DeepSpeed's own CUDA accelerator, its synchronises timed, the accelerator of this process; repeatable."""
    from deepspeed.accelerator import get_accelerator, set_accelerator
    from deepspeed.accelerator.cuda_accelerator import CUDA_Accelerator

    class WatchedAccelerator(CUDA_Accelerator):
        """DeepSpeed's accelerator in everything; the streams and events that it hands out are timed."""

        def synchronize(self, device_index: int | None = None) -> None:
            with WAITS.timed("device"):
                super().synchronize(device_index)

        def current_stream(self, device_index: int | None = None) -> WatchedStream:
            stream = torch.cuda.current_stream(device_index)
            return WatchedStream(
                stream_id=stream.stream_id, device_index=stream.device_index, device_type=stream.device_type
            )

        @property
        def Stream(self) -> type[WatchedStream]:
            return WatchedStream

        @property
        def Event(self) -> type[WatchedEvent]:
            return WatchedEvent

    if type(get_accelerator()).__name__ != WatchedAccelerator.__name__:
        set_accelerator(WatchedAccelerator())


class CudaDevice(Device):
    """One rank's GPU, or its share of one; `stall_us` holds up the compute stream before copies.

    `one_gpu` lets all ranks share the first GPU, as evidence of that level asks.
    """

    kind: DeviceKind = "cuda"

    def __init__(self, stall_us: int = 0, one_gpu: bool = False) -> None:
        super().__init__()
        if not torch.cuda.is_available():
            raise HarnessError("device cuda: no GPU is visible here; use device: virtual or cpu")
        environment = os.environ
        mine = share(
            int(environment.get("LOCAL_RANK", "0")),
            int(environment.get("LOCAL_SIZE", "1")),
            1 if one_gpu else torch.cuda.device_count(),
        )
        # DeepSpeed takes LOCAL_RANK for the index of a GPU (engine._set_distributed_vars, zero.Init.local_device).
        environment["LOCAL_RANK"] = str(mine.gpu)
        self.backend = mine.backend
        self.torch_device = torch.device("cuda", mine.gpu)
        torch.cuda.set_device(self.torch_device)
        if mine.memory_fraction is not None:
            torch.cuda.set_per_process_memory_fraction(mine.memory_fraction, self.torch_device)
            repeatable()
        self._stalls = StallCopies(stall_us * cycles_per_microsecond()) if stall_us else None

    def rendezvous(self) -> None:
        """Join the other ranks. Ranks that share a GPU join before DeepSpeed, which would bind the group to the GPU:

        torch then makes every later group by splitting, and gloo cannot split a group for ranks outside of it.
        """
        if self.backend == "gloo" and not torch.distributed.is_initialized():
            torch.distributed.init_process_group("gloo")
        super().rendezvous()

    def _wrap(self, inner: Any) -> Any:
        return GlooBackend(inner) if self.backend == "gloo" else Backend(inner)

    @contextmanager
    def activate(self) -> Iterator[None]:
        if self._stalls is None:
            yield
            return
        with self._stalls:
            yield

    def mark(self) -> Callable[[Any], float]:
        return _Mark(_timed_event())

    def stream_waits(self) -> list[tuple[Any, Any]]:
        COMPUTE_WAITS.opened = True
        seen, COMPUTE_WAITS.waits = COMPUTE_WAITS.waits, []
        return seen

    def peak_memory(self) -> tuple[int, int]:
        most = torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()
        torch.cuda.reset_peak_memory_stats()
        return most

    @property
    def card(self) -> str:
        return torch.cuda.get_device_name(self.torch_device)

    def counters(self) -> Counters:
        """Host waits are the synchronises that DeepSpeed asks its accelerator for."""
        return Counters(
            host_syncs=dict(WAITS.times),
            host_blocked_seconds=WAITS.seconds,
            collectives=self._collectives(),
        )


def _timed_event(*stream: torch.cuda.Stream) -> torch.cuda.Event:
    """An event on the stream; on the current one where none is named."""
    event = torch.cuda.Event(enable_timing=True)
    event.record(*stream)
    return event


@dataclass(frozen=True)
class _Mark:
    """A moment of the compute stream; called with an earlier one, the seconds between them. Both must have passed."""

    event: torch.cuda.Event

    def __call__(self, earlier: _Mark) -> float:
        return float(earlier.event.elapsed_time(self.event)) / 1e3


def repeatable() -> None:
    """Let the same program give the same bits: only then does a difference say that order was broken.

    Fresh memory keeps what it held (torch would fill it, with kernels of its own on the stream under test).
    """
    # cuBLAS picks its workspace, and so the order of its sums, by stream unless it is fixed before its first call.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
