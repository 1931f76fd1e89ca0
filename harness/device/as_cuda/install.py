"""Puts CUDA's names in place, once for a process."""

from __future__ import annotations

import importlib
import sys
import types
from collections.abc import Mapping
from typing import Any

import torch

from harness.device.as_cuda import (
    accelerator,
    autocast,
    kernels,
    memory,
    names,
    random,
    refused,
    streams,
    tensors,
)
from harness.device.memory import DEVICE, names_device
from harness.device.shown import shown
from harness.device.streams import Event, Stream
from harness.device.torch_private import (
    answer_for_accelerator,
    answer_for_cuda,
    group_by_place,
    translate_default_devices,
    translate_wrapper_devices,
)

CUDA = {**names.DEVICES, **memory.MEMORY, **random.RANDOM, **streams.STREAMS, **tensors.OLD_TYPES}


def map_cuda() -> None:
    """See the room. Call it once torch is imported, before libraries that ask for CUDA as they are imported."""
    if shown.mapped:
        return
    shown.as_cuda()
    names_device.cache_clear()
    _put_all(torch.cuda, CUDA)
    _put(torch.cuda.nvtx, names.NVTX)
    _put(
        importlib.import_module("torch.cuda.nccl"),
        {"version": names.answers(names.NCCL), "is_available": names.answers(True)},
    )
    for reason, refused_names in refused.REFUSED.items():
        _refuse(torch.cuda, reason, refused_names)
    for module, reason, refused_names in refused.REFUSED_INSIDE:
        _refuse(importlib.import_module(f"torch.cuda.{module}"), reason, refused_names)
    _put(torch, {"Generator": random.Generator, "Stream": Stream, "Event": Event})
    _put(torch, autocast.AUTOCAST)
    _put(torch.accelerator if hasattr(torch, "accelerator") else None, accelerator.ACCELERATOR)
    _put(torch.version, {"cuda": names.RUNTIME})
    _put(torch.backends.cuda, {"is_built": names.answers(True)})
    _put(torch.backends.cudnn, {"is_acceptable": names.answers(False)})
    _put(torch.distributed, {"is_nccl_available": names.answers(True)})
    answer_for_cuda(names.PRIVATE)
    answer_for_accelerator(accelerator.current_accelerator)
    translate_default_devices(_placed)
    translate_wrapper_devices(_placed)
    group_by_place()
    kernels.add_kernels()
    kernels.handle_norms()
    tensors.handle_tensors()
    tensors.number_devices()
    tensors.register_location()


def _placed(device: Any) -> Any:
    return DEVICE if names_device(device) else device


def _put(module: Any, content: Mapping[str, Any]) -> None:
    for name, value in content.items():
        if module is not None:
            setattr(module, name, value)


def _put_all(package: types.ModuleType, content: Mapping[str, Any]) -> None:
    """In the package and in those of its modules that have the name, too."""
    modules = [m for name, m in list(sys.modules.items()) if name.startswith(f"{package.__name__}.")]
    _put(package, content)
    for module in modules:
        _put(module, {name: value for name, value in content.items() if name in vars(module)})


def _refuse(module: Any, reason: str, refused_names: tuple[str, ...]) -> None:
    _put_all(
        module,
        {
            name: refused.refuse(f"{module.__name__}.{name}", reason)
            for name in refused_names
            if hasattr(module, name)
        },
    )
