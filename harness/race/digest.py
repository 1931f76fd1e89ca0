"""What a rank's final values hash to: parameters or their shards, and the program's global numbers and tensors."""

from __future__ import annotations

import gc
import hashlib
from collections.abc import Mapping
from typing import Any

import torch

from harness.device.memory import on_device
from harness.device.subclasses import parts_of
from harness.device.torch_private import below_dispatch, functions_off
from harness.race.names import roots


def values_left(names: Mapping[str, Any]) -> bool:
    """Whether the digest holds more than numbers and what came from the host: a model, or a tensor on the device."""
    tensors = [value for value in names.values() if isinstance(value, torch.Tensor)]
    with functions_off():
        return any(map(on_device, tensors)) or any(True for root in roots() for _ in root.parameters())


def digest_of(names: Mapping[str, Any], numbers: bool = True) -> str:
    """Hash of this rank's final values: parameters or their shards, and the script's global tensors and numbers."""
    gc.collect()
    with below_dispatch():
        return _digest_of(names, numbers)


def _digest_of(names: Mapping[str, Any], numbers: bool) -> str:
    parts = [_digest_module(module) for module in roots()]
    for name, value in sorted(names.items()):
        if isinstance(value, torch.Tensor):
            parts.append(f"{name} {digest_tensor(value)}")
        elif numbers and isinstance(value, int | float | list | tuple) and not name.startswith("_"):
            parts.append(f"{name} {_plain(value)}")
    return hashlib.sha256("\n".join(sorted(parts)).encode()).hexdigest()


def _digest_module(module: torch.nn.Module) -> str:
    shards = (
        f"{name} {digest_tensor(shard if (shard := getattr(p, 'ds_tensor', None)) is not None else p)}"
        for name, p in sorted(module.named_parameters())
    )
    return hashlib.sha256("\n".join(shards).encode()).hexdigest()


def digest_tensor(tensor: torch.Tensor) -> str:
    """Hash of its bytes. Call it below the device's dispatch."""
    content = hashlib.sha256()
    for part in parts_of(tensor):
        if part.numel():
            content.update(part.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return content.hexdigest()


def _plain(value: Any) -> str:
    if isinstance(value, list | tuple):
        return f"[{', '.join(_plain(item) for item in value)}]"
    if isinstance(value, torch.Tensor):
        return digest_tensor(value)
    return repr(value) if isinstance(value, int | float | str) else type(value).__name__
