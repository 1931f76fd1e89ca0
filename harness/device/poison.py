"""What fresh device memory holds before anything is written to it: `nan`, `pattern` or `stale`.

CUDA's caching allocator hands out memory with whatever its last owner left there, so a program that reads too early
reads garbage. `nan` makes such a read loud, `pattern` finite but recognisable, `stale` what a caching allocator
would give: the content of the last block of that size class freed on the same stream.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import torch

from harness.system.errors import HarnessError

BYTE = 0x5A  # the pattern: 1.5e16 in bfloat16 and in single precision
BLOCK = 512  # bytes; the size classes are its multiples, as in PyTorch's caching allocator
KINDS = ("nan", "pattern", "stale")

# What `nan` and `pattern` write; a dtype not listed takes the byte pattern.
NAN = {dtype: float("nan") for dtype in (torch.bfloat16, torch.float16, torch.float32, torch.float64)}


def pattern_of(dtype: torch.dtype) -> Any:
    """The number whose bytes are all BYTE; True for booleans."""
    if dtype is torch.bool:
        return True
    size = torch.empty((), dtype=dtype).element_size()
    return torch.full((size,), BYTE, dtype=torch.uint8).view(dtype).item()


class Poison:
    """Fills with a constant of the dtype."""

    def __init__(self, nan: bool) -> None:
        self.values: dict[torch.dtype, Any] = dict(NAN) if nan else {}

    def fill(self, tensor: torch.Tensor) -> torch.Tensor:
        value = self.values.get(tensor.dtype)
        if value is None:
            value = self.values[tensor.dtype] = pattern_of(tensor.dtype)
        return tensor.fill_(value)

    def allocate(self, size: Any, stride: Any, dtype: torch.dtype, stream: int) -> torch.Tensor:
        """Fresh memory for a tensor, made while `stream` is current."""
        return self.fill(torch.empty_strided(size, stride, dtype=dtype))

    def renew(self, tensor: torch.Tensor, stream: int) -> torch.Tensor:
        """The same for a tensor that torch has just allocated; it may be given back itself."""
        return self.fill(tensor)


class Stale(Poison):
    """Hands freed blocks out again, last freed first; memory never used before is zero."""

    def __init__(self) -> None:
        super().__init__(nan=False)
        self.free: defaultdict[tuple[int, int], list[Any]] = defaultdict(list)

    def allocate(self, size: Any, stride: Any, dtype: torch.dtype, stream: int) -> torch.Tensor:
        shape = torch.empty_strided(size, stride, dtype=dtype, device="meta")
        nbytes = shape.untyped_storage().nbytes()
        if nbytes == 0:
            return torch.empty_strided(size, stride, dtype=dtype)
        blocks = -(-nbytes // BLOCK)
        pool = self.free[stream, blocks]
        buffer = pool.pop() if pool else torch.zeros(blocks * BLOCK, dtype=torch.uint8).numpy()
        flat = torch.frombuffer(buffer, dtype=dtype, count=nbytes // shape.element_size())
        flat.untyped_storage().block = _Block(pool, buffer)  # type: ignore[attr-defined]
        return flat.as_strided(size, stride)

    def renew(self, tensor: torch.Tensor, stream: int) -> torch.Tensor:
        return self.allocate(tensor.size(), tensor.stride(), tensor.dtype, stream)


class _Block:
    """Dies with its storage, and then gives its buffer back."""

    __slots__ = ("buffer", "pool")

    def __init__(self, pool: list[Any], buffer: Any) -> None:
        self.pool, self.buffer = pool, buffer

    def __del__(self) -> None:
        self.pool.append(self.buffer)


def parse_poison(kind: str) -> Poison:
    """The poison of that name. Raises HarnessError."""
    if kind == "stale":
        return Stale()
    if kind in ("nan", "pattern"):
        return Poison(nan=kind == "nan")
    raise HarnessError(f"poison {kind!r} is not known; use one of {', '.join(KINDS)}")
