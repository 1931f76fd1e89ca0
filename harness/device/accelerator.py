"""DeepSpeed's accelerator interface over the virtual device. Call `install` before DeepSpeed's engine is imported."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch
from deepspeed.accelerator import set_accelerator
from deepspeed.accelerator.cpu_accelerator import CPU_Accelerator

from harness.device import streams
from harness.device.memory import DEVICE, DeviceName
from harness.device.shown import shown
from harness.device.streams import StreamContext, machine


class VirtualAccelerator(CPU_Accelerator):
    """A device with streams, as CUDA's accelerator describes one. It holds no state: that is the machine's."""

    def is_synchronized_device(self) -> bool:
        return False

    def use_host_timers(self) -> bool:
        return False

    def resolves_data_dependency(self) -> bool:
        return False

    def handles_memory_backpressure(self) -> bool:
        return False

    def device_name(self, device_index: int | None = None) -> str:
        if shown.mapped:
            return "cuda" if device_index is None else f"cuda:{device_index}"
        return DeviceName("cpu") if device_index is None else str(DEVICE)

    def device(self, device_index: int | None = None) -> torch.device:
        return shown.device

    def set_device(self, device_index: int) -> None:
        if shown.mapped:
            torch.cuda.set_device(device_index)

    def current_device(self) -> int:
        return int(shown.device.index)

    def communication_backend_name(self) -> str:
        return "nccl" if shown.mapped else str(super().communication_backend_name())

    def is_fp16_supported(self) -> bool:
        """As of a GPU, whatever this machine's CPU can do fast."""
        return True

    def is_bf16_supported(self) -> bool:
        return True

    def supported_dtypes(self) -> list[torch.dtype]:
        return [torch.float, torch.half, torch.bfloat16]

    def memory_stats(self, device_index: int | None = None) -> dict[str, int]:
        """No cache, and so no flushes of it; CPU accelerators before 0.10.1 answer with a number."""
        return {"num_alloc_retries": 0}

    def current_device_name(self) -> str:
        return str(shown.device)

    def device_count(self) -> int:
        return int(os.environ.get("LOCAL_SIZE", "1"))

    @property
    def Stream(self) -> type[streams.Stream]:
        return streams.Stream

    def stream(self, stream: streams.Stream | None) -> StreamContext:
        return StreamContext(stream)

    def current_stream(self, device_index: int | None = None) -> streams.Stream:
        return machine().current

    def default_stream(self, device_index: int | None = None) -> streams.Stream:
        return machine().default

    @property
    def Event(self) -> type[streams.Event]:
        return streams.Event

    def synchronize(self, device_index: int | None = None) -> None:
        machine().synchronize()

    def on_accelerator(self, tensor: torch.Tensor) -> bool:
        return tensor.device.index is not None

    def pin_memory(self, tensor: torch.Tensor, *_: object, **__: object) -> torch.Tensor:
        return tensor.pin_memory()

    def is_pinned(self, tensor: torch.Tensor) -> bool:
        return tensor.is_pinned()

    @property
    def BFloat16Tensor(self) -> Callable[..., torch.Tensor]:
        return _typed(torch.bfloat16)

    @property
    def ByteTensor(self) -> Callable[..., torch.Tensor]:
        return _typed(torch.uint8)

    @property
    def DoubleTensor(self) -> Callable[..., torch.Tensor]:
        return _typed(torch.float64)

    @property
    def FloatTensor(self) -> Callable[..., torch.Tensor]:
        return _typed(torch.float32)

    @property
    def HalfTensor(self) -> Callable[..., torch.Tensor]:
        return _typed(torch.float16)

    @property
    def IntTensor(self) -> Callable[..., torch.Tensor]:
        return _typed(torch.int32)

    @property
    def LongTensor(self) -> Callable[..., torch.Tensor]:
        return _typed(torch.int64)


def _typed(dtype: torch.dtype) -> Callable[..., torch.Tensor]:
    """What torch.cuda.FloatTensor and its kin do: numbers give sizes, a sequence gives data."""

    def make(*args: Any) -> torch.Tensor:
        if args and not isinstance(args[0], int):
            return torch.tensor(args[0], dtype=dtype, device=DEVICE)
        return torch.empty(args, dtype=dtype, device=DEVICE)

    return make


def install() -> None:
    """Make it DeepSpeed's accelerator."""
    set_accelerator(VirtualAccelerator())
    if shown.mapped:
        from harness.device.as_cuda.fused import fit_builders

        fit_builders()
