"""`torch.autocast("cuda")` over CPU kernels: while it is on, so is the CPU's, with the same type.

The types of `cuda` are kept as torch keeps them, so that whoever asks for them gets CUDA's answers.
"""

from __future__ import annotations

from typing import Any

import torch

_set_enabled, _set_dtype = torch.set_autocast_enabled, torch.set_autocast_dtype


def set_autocast_enabled(*args: Any) -> None:
    """With one argument it is CUDA's, as in older programs."""
    device, enabled = args if len(args) == 2 else ("cuda", args[0])
    _set_enabled(device, enabled)
    if device == "cuda":
        _set_enabled("cpu", enabled)


def set_autocast_dtype(device: str, dtype: torch.dtype) -> None:
    _set_dtype(device, dtype)
    if device == "cuda":
        _set_dtype("cpu", dtype)


AUTOCAST: dict[str, Any] = {
    "set_autocast_enabled": set_autocast_enabled,
    "set_autocast_dtype": set_autocast_dtype,
    "set_autocast_gpu_dtype": lambda dtype: set_autocast_dtype("cuda", dtype),
}
