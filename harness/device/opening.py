"""Opens the device that a rank trains on, by its kind: `cpu`, `virtual` or `cuda`."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from typing import Any

from harness.device.device import Device
from harness.device.schedule import Policy
from harness.device.virtual import VirtualDevice
from harness.system.errors import HarnessError


def open_process_device(kind: str) -> None:
    """Install DeepSpeed's accelerator for this process and those that it forks; safe to repeat.

    Must come before DeepSpeed's engine is imported. Raises HarnessError for an unknown kind and for `cuda` on a
    machine without a GPU.
    """
    if kind not in ("cpu", "virtual", "cuda"):
        raise HarnessError(f"device {kind!r} is not known; use cpu, virtual or cuda")
    if kind == "cuda":
        from harness.device.cuda import prepare_process

        prepare_process()
        return
    os.environ["DS_ACCELERATOR"] = "cpu"
    if kind == "virtual":
        from harness.device.accelerator import install

        install()
    import deepspeed.ops

    # DeepSpeed would compile it on the first init_distributed, and fail without a compiler.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


def cuda_was_started(load: Callable[[str], Any] = ctypes.CDLL) -> bool:
    """Whether anything in this process has started CUDA, so that processes forked from it can never use it.

    Asks the driver for the number of GPUs, which it refuses to say before cuInit (CUDA_ERROR_NOT_INITIALIZED, 3).
    """
    try:
        driver = load("libcuda.so.1")
    except OSError:
        return False
    return int(driver.cuDeviceGetCount(ctypes.byref(ctypes.c_int()))) != 3


def open_device(
    kind: str,
    *,
    policy: Policy | None = None,
    poison: str = "nan",
    stall_us: int = 0,
    one_gpu: bool = False,
) -> Device:
    """The device of this rank. `policy` (None: eager) and `poison` matter on `virtual` alone.

    On `cuda` alone, `stall_us` holds the compute stream for so many microseconds before each copy on the device, and
    `one_gpu` lets all ranks share the first GPU, however many there are.

    Raises HarnessError for names that are not known, and for `cuda` without a GPU.
    """
    open_process_device(kind)
    if kind == "virtual":
        return VirtualDevice(policy, poison)
    if kind == "cuda":
        from harness.device.cuda import CudaDevice

        return CudaDevice(stall_us, one_gpu)
    return Device()
