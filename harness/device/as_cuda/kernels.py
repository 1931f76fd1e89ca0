"""Operators that CUDA has and the CPU has not: of half precision on one side, and single precision on the other.

Products of half-precision matrices whose result is of single precision; batch norms whose weights are of half precision
and whose running statistics are not, as DeepSpeed leaves them.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch.nn import functional

from harness.device.functions import Functions
from harness.device.handlers import handles

Tensor = torch.Tensor


def _product(name: str, operands: int) -> dict[str, Any]:
    """`name.dtype` and `name.dtype_out`; the type of the result comes after so many tensors."""
    plain = getattr(torch, name)

    def made(*args: Any, **scales: Any) -> Tensor:
        *tensors, dtype = args[: operands + 1]
        result: Tensor = plain(*(t.to(dtype) for t in tensors), **scales)
        return result

    def filled(*args: Any, out: Tensor, **scales: Any) -> Tensor:
        return out.copy_(made(*args, **scales))

    return {f"{name}.dtype": made, f"{name}.dtype_out": filled}


KERNELS = {
    **_product("mm", 2),
    **_product("bmm", 2),
    **_product("addmm", 3),
    **_product("baddbmm", 3),
}
_library = torch.library.Library("aten", "IMPL")  # its kernels are there as long as it is


def add_kernels() -> None:
    """Where this torch has the operator."""
    for name, kernel in KERNELS.items():
        packet, overload = name.split(".")
        if overload in getattr(torch.ops.aten, packet).overloads():
            _library.impl(name, kernel, "CPU")


def handle_norms() -> None:
    """Register the handlers; the device's function mode asks them from now on."""
    handles(torch.batch_norm)(_batch_norm(weight=1, statistics=3))
    handles(functional.batch_norm)(_batch_norm(weight=3, statistics=1))


def _batch_norm(weight: int, statistics: int) -> Any:
    """A handler; the positions are those of the arguments `weight`, `bias` and `running_mean`, `running_var`."""

    def handler(mode: Functions, func: Any, args: Any, kwargs: Any) -> Any:
        names = ("weight", "bias")
        given = [*args[weight : weight + 2], *(kwargs[name] for name in names if name in kwargs)]
        mean = args[statistics] if len(args) > statistics else kwargs.get("running_mean")
        half = next((t.dtype for t in given if t is not None), None)
        if mean is not None and half in HALVES and mean.dtype == torch.float32:
            args = [_single(x) if weight <= at < weight + 2 else x for at, x in enumerate(args)]
            kwargs = {name: _single(x) if name in names else x for name, x in kwargs.items()}
        return mode.calling(partial(func, **kwargs), *args)

    return handler


HALVES = (torch.float16, torch.bfloat16)


def _single(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.float()
