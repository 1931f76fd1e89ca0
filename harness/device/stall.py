"""A stall: the compute stream is held for a bounded time before each copy, so that what races with it can win.

Placed by stream and kind of op alone: every copy from device memory into device memory that already exists
(`aten.copy_`), issued to the device's default stream, whoever asks for it. A delay only moves work later on its own
stream, as a slower kernel would; no order that the program asks for is lost, so a properly ordered program keeps its
values under every stall. Watching ops costs the host some microseconds each, which at the same time makes it slower to
reach the gather: the same stall opens the window less than a slower kernel would, never more. Ranks that share a GPU
take turns on it, so that a stall of one may hold up the others, too: it lasts at least as long as it says.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from harness.device.torch_private import TorchDispatchMode, hold_gpu

aten = torch.ops.aten
COPIES = (aten.copy_.default, aten._foreach_copy_.default)
CALIBRATION_CYCLES = 1_000_000
CALIBRATIONS = 5


def cycles_per_microsecond() -> float:
    """Cycles of the GPU's clock in a microsecond, by CUDA events around a delay kernel. Waits for the device.

    The shortest of some delays counts: another process on the same GPU can only make one longer.
    """
    hold_gpu(1000)  # loads the kernel
    shortest = min(_sleep_milliseconds() for _ in range(CALIBRATIONS))
    return CALIBRATION_CYCLES / (shortest * 1e3)


def _sleep_milliseconds() -> float:
    before, after = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    before.record()
    hold_gpu(CALIBRATION_CYCLES)
    after.record()
    after.synchronize()
    return float(before.elapsed_time(after))


def on_compute_stream() -> bool:
    """Whether ops issued now go to the device's default stream, on which DeepSpeed computes."""
    return bool(torch.cuda.current_stream() == torch.cuda.default_stream())


def on_gpu(value: Any) -> bool:
    """Whether this is a tensor in device memory, or a list of them."""
    if isinstance(value, list | tuple):
        return bool(value) and all(map(on_gpu, value))
    return isinstance(value, torch.Tensor) and value.is_cuda


class StallCopies(TorchDispatchMode):
    """Inside, a delay kernel of `cycles` goes before each device-to-device copy on the compute stream."""

    def __init__(
        self,
        cycles: float,
        *,
        hold: Callable[[int], None] = hold_gpu,
        on_compute: Callable[[], bool] = on_compute_stream,
        on_device: Callable[[Any], bool] = on_gpu,
    ) -> None:
        super().__init__()
        self.cycles, self.stalls = round(cycles), 0
        self._hold, self._on_compute, self._on_device = hold, on_compute, on_device

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func in COPIES and all(map(self._on_device, args[:2])) and self._on_compute():
            self._hold(self.cycles)
            self.stalls += 1
        return func(*args, **(kwargs or {}))
