"""`torch.accelerator`, which newer programs ask in place of `torch.cuda`."""

from __future__ import annotations

from typing import Any

import torch

from harness.device.as_cuda import memory, names, streams


def current_accelerator(check_available: bool = False) -> torch.device:
    return torch.device("cuda")


MEMORY_NAMES = (
    "empty_cache",
    "memory_stats",
    "memory_allocated",
    "max_memory_allocated",
    "memory_reserved",
    "max_memory_reserved",
    "reset_peak_memory_stats",
    "reset_accumulated_memory_stats",
)
ACCELERATOR: dict[str, Any] = {
    "is_available": names.answers(True),
    "current_accelerator": current_accelerator,
    "device_count": names.device_count,
    "current_device_index": names.current_device,
    "current_device_idx": names.current_device,
    "set_device_index": names.set_device,
    "set_device_idx": names.set_device,
    "device_index": names.UseDevice,
    "get_device_capability": names.answers(
        {"supported_dtypes": {torch.float32, torch.float16, torch.bfloat16}}
    ),
    "synchronize": lambda device=None: names.synchronize(),
    # Not the same objects as in torch.cuda: torch's compiler keeps a table of both.
    "current_stream": lambda device=None: streams.current_stream(),
    "set_stream": lambda stream: streams.set_stream(stream),
    "get_memory_info": memory.mem_get_info,
} | {name: memory.MEMORY[name] for name in MEMORY_NAMES}
