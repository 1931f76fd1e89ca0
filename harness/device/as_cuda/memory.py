"""Memory statistics of `torch.cuda` and `torch.accelerator`, from what the virtual allocator really handed out."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from harness.device.as_cuda.names import answers, nothing
from harness.device.statistics import TOTAL_BYTES, Statistics
from harness.device.streams import machine

_before = Statistics()  # answers while no device is open


def statistics() -> Statistics:
    """Those of the device in use."""
    memory = machine().memory
    return (memory and memory.statistics) or _before


def memory_allocated(device: Any = None) -> int:
    return statistics().allocated


def max_memory_allocated(device: Any = None) -> int:
    return statistics().peak


def memory_reserved(device: Any = None) -> int:
    return statistics().reserved


def max_memory_reserved(device: Any = None) -> int:
    return statistics().reserved_peak


def mem_get_info(device: Any = None) -> tuple[int, int]:
    """Bytes that are free, and all."""
    return TOTAL_BYTES - statistics().reserved, TOTAL_BYTES


def memory_stats(device: Any = None) -> OrderedDict[str, Any]:
    return OrderedDict(statistics().as_dict())


def memory_stats_as_nested_dict(device: Any = None) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for name, value in statistics().as_dict().items():
        *path, last = name.split(".")
        at = nested
        for part in path:
            at = at.setdefault(part, {})
        at[last] = value
    return nested


def memory_summary(device: Any = None, abbreviated: bool = False) -> str:
    return "\n".join(f"{name} {value}" for name, value in statistics().as_dict().items())


def empty_cache() -> None:
    statistics().empty_cache()


def reset_peak(device: Any = None) -> None:
    statistics().reset_peak()


def reset_ever(device: Any = None) -> None:
    statistics().reset_ever()


MEMORY = {
    "memory_allocated": memory_allocated,
    "max_memory_allocated": max_memory_allocated,
    "memory_reserved": memory_reserved,
    "max_memory_reserved": max_memory_reserved,
    "memory_cached": memory_reserved,
    "max_memory_cached": max_memory_reserved,
    "memory_stats": memory_stats,
    "memory_stats_as_nested_dict": memory_stats_as_nested_dict,
    "memory_summary": memory_summary,
    "memory_snapshot": answers([]),
    "mem_get_info": mem_get_info,
    "empty_cache": empty_cache,
    "reset_peak_memory_stats": reset_peak,
    "reset_max_memory_allocated": reset_peak,
    "reset_max_memory_cached": reset_peak,
    "reset_accumulated_memory_stats": reset_ever,
    "set_per_process_memory_fraction": nothing,
    "get_per_process_memory_fraction": answers(1.0),
    "get_allocator_backend": answers("native"),
}
