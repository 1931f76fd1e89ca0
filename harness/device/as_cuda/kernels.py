"""Operators that CUDA has and the CPU has not: products of half-precision matrices, the result in single precision."""

from __future__ import annotations

from typing import Any

import torch

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
