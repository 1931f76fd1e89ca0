"""Devices of `torch.cuda`: how many there are, which one this rank has, and what it is.

The device claims to be of a generation that every library knows (compute capability 8.0, 80 GiB), so that programs take
the branch that they take on a GPU.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import torch

from harness.device.shown import shown
from harness.device.statistics import TOTAL_BYTES
from harness.device.streams import machine

CAPABILITY = (8, 0)
RUNTIME = "12.8"  # of CUDA
NCCL = (2, 27, 3)


@dataclass(frozen=True)
class Properties:
    """As torch.cuda.get_device_properties answers."""

    name: str = "hpZ virtual device"
    major: int = CAPABILITY[0]
    minor: int = CAPABILITY[1]
    total_memory: int = TOTAL_BYTES
    multi_processor_count: int = 108
    max_threads_per_multi_processor: int = 2048
    max_threads_per_block: int = 1024
    regs_per_multiprocessor: int = 65536
    shared_memory_per_block: int = 49152
    shared_memory_per_block_optin: int = 166912
    shared_memory_per_multiprocessor: int = 167936
    L2_cache_size: int = 40 << 20
    warp_size: int = 32
    is_integrated: int = 0
    is_multi_gpu_board: int = 0
    gcnArchName: str = ""
    uuid: str = "virtual"


def device_count() -> int:
    """One for each rank of this machine, as a launcher shows them."""
    return int(os.environ.get("LOCAL_WORLD_SIZE") or os.environ.get("LOCAL_SIZE") or "1")


def is_initialized() -> bool:
    """Whether the program has used its device yet, or said which it is; a DeviceMesh else chooses by LOCAL_RANK."""
    return shown.index is not None or machine().memory.allocated > 0


def current_device() -> int:
    return int(shown.device.index) if shown.mapped else 0


def set_device(device: Any) -> None:
    index = index_of(device)
    if index is not None and index >= 0:
        shown.use(index)


def index_of(device: Any) -> int | None:
    """The index that a device names; None where it names none."""
    if device is None:
        return None
    if isinstance(device, int):
        return device
    if isinstance(device, torch.Tensor):
        device = device.device
    index = torch.device(device).index if isinstance(device, str) else device.index
    return None if index is None else int(index)


def synchronize(device: Any = None) -> None:
    machine().synchronize()


class UseDevice:
    """torch.cuda.device: a process has one virtual device, so that nothing changes inside."""

    def __init__(self, device: Any) -> None:
        self.idx = index_of(device)

    def __enter__(self) -> None:
        self.prev_idx = shown.index
        if self.idx is not None and self.idx >= 0:
            shown.use(self.idx)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.prev_idx is not None:
            shown.use(self.prev_idx)


class UseDeviceOf(UseDevice):
    """torch.cuda.device_of."""

    def __init__(self, tensor: Any) -> None:
        super().__init__(tensor.device if tensor.is_cuda else None)


class Runtime:
    """What torch.cuda.cudart() has of use here."""

    def cudaProfilerStart(self) -> int:
        return 0

    def cudaProfilerStop(self) -> int:
        return 0

    def cudaMemGetInfo(self, device: int = 0) -> tuple[int, int]:
        return tuple(torch.cuda.mem_get_info())  # type: ignore[return-value]


class NoRange:
    """torch.cuda.nvtx.range: marks for a profiler that is not there."""

    def __init__(self, *_: object, **__: object) -> None: ...

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...

    def __call__(self, function: Any) -> Any:
        return function


def nothing(*_: object, **__: object) -> None:
    """For what tells the driver something that has no meaning here."""


def answers(value: Any) -> Any:
    """A function that always gives this answer."""
    return lambda *_, **__: value


def call_now(callback: Any, **_: object) -> None:
    """Nothing is put off until CUDA is initialised."""
    callback()


DEVICES = {
    "is_available": answers(True),
    "is_initialized": is_initialized,
    "init": nothing,
    "device_count": device_count,
    "current_device": current_device,
    "set_device": set_device,
    "synchronize": synchronize,
    "device": UseDevice,
    "device_of": UseDeviceOf,
    "get_device_name": answers(Properties.name),
    "get_device_capability": answers(CAPABILITY),
    "get_device_properties": answers(Properties()),
    "can_device_access_peer": answers(True),
    "is_bf16_supported": answers(True),
    "is_tf32_supported": answers(True),
    "is_current_stream_capturing": answers(False),
    "get_arch_list": answers(["sm_80"]),
    "get_gencode_flags": answers("-gencode compute=compute_80,code=sm_80"),
    "get_sync_debug_mode": answers(0),
    "set_sync_debug_mode": nothing,
    "ipc_collect": nothing,
    "cudart": Runtime,
    "check_error": nothing,
    "list_gpu_processes": answers("no processes are known of a virtual device"),
}
NVTX = {"range_push": answers(0), "range_pop": answers(0), "mark": nothing, "range": NoRange} | {
    "range_start": answers(0),
    "range_end": nothing,
}
# What torch's own code calls; the names stand in harness.device.torch_private. It must not find itself compiled with
# CUDA: it would then import what is not there.
PRIVATE = {"lazy_init": nothing, "lazy_call": call_now, "is_in_bad_fork": answers(False), "sleep": nothing}
