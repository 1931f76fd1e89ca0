"""Tensors under CUDA's names: `Tensor.cuda`, the old type names, and files that say where a tensor lay."""

from __future__ import annotations

from typing import Any

import torch

from harness.device.functions import Functions
from harness.device.handlers import handles, transfer
from harness.device.memory import DEVICE, names_device, on_device
from harness.device.shown import shown
from harness.device.streams import machine
from harness.device.torch_private import functions_off

Tensor = torch.Tensor
TYPES = {
    "BFloat16": torch.bfloat16,
    "Bool": torch.bool,
    "Byte": torch.uint8,
    "Char": torch.int8,
    "Double": torch.float64,
    "Float": torch.float32,
    "Half": torch.float16,
    "Int": torch.int32,
    "Long": torch.int64,
    "Short": torch.int16,
}


def handle_tensors() -> None:
    """Register the handlers; the device's function mode asks them from now on."""
    handles(Tensor.cuda)(_cuda)
    handles(Tensor.type)(_type)
    handles(torch.device)(_device)


def number_devices() -> None:
    """A module goes to a device by its number, too; C++, which reads it, would look for an accelerator of its own."""
    to = torch.nn.Module.to

    def module_to(module: torch.nn.Module, *args: Any, **kwargs: Any) -> torch.nn.Module:
        if args and type(args[0]) is int:
            args = (f"cuda:{args[0]}", *args[1:])
        if type(kwargs.get("device")) is int:
            kwargs["device"] = f"cuda:{kwargs['device']}"
        return to(module, *args, **kwargs)

    torch.nn.Module.to = module_to  # type: ignore[method-assign,assignment]


def _device(mode: Functions, func: Any, args: Any, kwargs: Any) -> Any:
    """A number alone is one of CUDA's devices."""
    if args and type(args[0]) is int:
        args = ("cuda", args[0])
    return func(*args, **kwargs)


def _cuda(mode: Functions, func: Any, args: Any, kwargs: Any) -> Any:
    device = args[1] if len(args) > 1 else kwargs.get("device")
    if device is not None:
        names_device(device)
    non_blocking = args[2] if len(args) > 2 else kwargs.get("non_blocking", False)
    return transfer(mode, args[0], True, non_blocking=non_blocking)


def _type(mode: Functions, func: Any, args: Any, kwargs: Any) -> Any:
    """The old names of types say where, too: `torch.cuda.HalfTensor`."""
    wanted = args[1] if len(args) > 1 else kwargs.get("dtype")
    here = on_device(args[0])
    if wanted is None:
        name = func(args[0])
        return name.replace("torch.", "torch.cuda.", 1) if here else name
    if isinstance(wanted, torch.dtype):
        return transfer(mode, args[0], here, wanted)
    if isinstance(wanted, OldType):
        return transfer(mode, args[0], True, wanted.dtype)
    name = wanted if isinstance(wanted, str) else f"torch.{wanted.__name__}"
    dtype = TYPES[name.rpartition(".")[2].removesuffix("Tensor")]
    return transfer(mode, args[0], name.startswith("torch.cuda."), dtype)


class OldType(type):
    """torch.cuda.FloatTensor and its kin: numbers give sizes, a sequence gives data; tensors are instances."""

    dtype: torch.dtype

    def __call__(cls, *args: Any, **_: Any) -> Any:
        if args and not isinstance(args[0], int):
            return torch.tensor(args[0], dtype=cls.dtype, device=shown.device)
        return torch.empty(args, dtype=cls.dtype, device=shown.device)

    def __instancecheck__(cls, thing: object) -> bool:
        return isinstance(thing, Tensor) and thing.is_cuda and thing.dtype == cls.dtype


OLD_TYPES = {
    f"{name}Tensor": OldType(f"{name}Tensor", (), {"dtype": dtype, "__module__": "torch.cuda"})
    for name, dtype in TYPES.items()
}


def register_location() -> None:
    """torch.save notes of device memory that it lay on CUDA; torch.load puts such tensors back there."""
    torch.serialization.register_package(5, _location_of, _put_back)


def _location_of(storage: Any) -> str | None:
    inner = getattr(storage, "_untyped_storage", storage)
    return str(shown.device) if shown.mapped and hasattr(inner, "allocation") else None


def _put_back(storage: Any, location: str) -> Any:
    memory = machine().memory
    if not (shown.mapped and str(location).startswith("cuda") and memory is not None):
        return None
    inner = getattr(storage, "_untyped_storage", storage)
    with functions_off():
        memory.adopt(torch.empty(0, dtype=torch.uint8, device=DEVICE).set_(inner))
    machine().host_wait(machine().current, "copy from pageable memory")
    return storage
