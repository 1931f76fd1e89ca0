"""What fresh device memory holds before anything is written to it: `nan`, `pattern` or `stale`.

CUDA's caching allocator hands out memory with whatever its last owner left there, so a program that reads too early
reads garbage. `nan` makes such a read loud, `pattern` finite but recognisable, `stale` what a caching allocator
would give: the last block of that size class freed on the same stream, with what other streams still do to it.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from typing import Any, NamedTuple

import torch
from torch import (
    empty as torch_empty,
)  # zero.Init puts its own in their place
from torch import (
    full as torch_full,
)
from torch import (
    zeros as torch_zeros,
)

from harness.device.schedule import Queue
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
    size = torch_empty((), dtype=dtype).element_size()
    return torch_full((size,), BYTE, dtype=torch.uint8).view(dtype).item()


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
    """Hands freed blocks out again as soon as the program lets go of them; memory never used before is zero.

    Ops that were issued and have not run do not keep a block (see `alias`): as with CUDA, it may be handed out under
    them, unless `Tensor.record_stream` named their stream. Blocks that such ops still hold go first, then the last
    freed.
    """

    def __init__(self) -> None:
        super().__init__(nan=False)
        self.free: defaultdict[tuple[int, int], list[_Free]] = defaultdict(list)

    def allocate(self, size: Any, stride: Any, dtype: torch.dtype, stream: int) -> torch.Tensor:
        shape = torch.empty_strided(size, stride, dtype=dtype, device="meta")
        nbytes = shape.untyped_storage().nbytes()
        if nbytes == 0:
            return torch.empty_strided(size, stride, dtype=dtype)
        blocks = -(-nbytes // BLOCK)
        pool = self.free[stream, blocks]
        buffer = _taken(pool) or Buffer(blocks * BLOCK)
        flat = torch.frombuffer(buffer.bytes, dtype=dtype, count=nbytes // shape.element_size())
        flat.untyped_storage().block = _Block(pool, buffer)  # type: ignore[attr-defined]
        return flat.as_strided(size, stride)

    def renew(self, tensor: torch.Tensor, stream: int) -> torch.Tensor:
        return self.allocate(tensor.size(), tensor.stride(), tensor.dtype, stream)


class Buffer:
    """The bytes of one block."""

    __slots__ = ("bytes",)

    def __init__(self, nbytes: int) -> None:
        self.bytes = torch_zeros(nbytes, dtype=torch.uint8).numpy()

    def held(self) -> bool:
        """Whether an op that has not run is still to touch it: it then has a view of its own."""
        return sys.getrefcount(self.bytes) > 2  # this object's, and the argument's


class _Free(NamedTuple):
    """A buffer that may be handed out once the work that was recorded is done."""

    buffer: Buffer
    work: tuple[tuple[Queue, int], ...]

    def usable(self) -> bool:
        return all(stream.done >= position for stream, position in self.work)


def _taken(pool: list[_Free]) -> Buffer | None:
    usable = [free for free in pool if free.usable()]
    if not usable:
        return None
    chosen = next((free for free in reversed(usable) if free.buffer.held()), usable[-1])
    pool[:] = [free for free in pool if free is not chosen]
    return chosen.buffer


class _Block:
    """Dies with its storage, and then gives its buffer back."""

    __slots__ = ("buffer", "pool", "recorded")

    def __init__(self, pool: list[_Free], buffer: Buffer) -> None:
        self.pool, self.buffer = pool, buffer
        self.recorded: set[Queue] = set()

    def __del__(self) -> None:
        self.pool.append(_Free(self.buffer, tuple((stream, stream.issued) for stream in self.recorded)))


def alias(tensor: torch.Tensor) -> torch.Tensor:
    """The same memory under a tensor of its own, for an op that is still to run."""
    block: _Block | None = getattr(tensor.untyped_storage(), "block", None)
    if block is None or tensor.is_conj() or tensor.is_neg():
        return tensor.data
    flat = torch.frombuffer(block.buffer.bytes, dtype=tensor.dtype)
    return flat.as_strided(tensor.size(), tensor.stride(), tensor.storage_offset())


def use_on(tensor: torch.Tensor, stream: Queue) -> None:
    """The block is not handed out again before the stream's work up to then is done."""
    block: _Block | None = getattr(tensor.untyped_storage(), "block", None)
    if block is not None:
        block.recorded.add(stream)


def parse_poison(kind: str) -> Poison:
    """The poison of that name. Raises HarnessError."""
    if kind == "stale":
        return Stale()
    if kind in ("nan", "pattern"):
        return Poison(nan=kind == "nan")
    raise HarnessError(f"poison {kind!r} is not known; use one of {', '.join(KINDS)}")
