"""Blocks that went back to the allocator while they may be in use, and who may be given them next.

PyTorch's caching allocator hands a block at once to the next allocation on the stream that it was allocated on (notes
on CUDA, "Memory management"; c10/cuda/CUDACachingAllocator.cpp): sizes are rounded up to 512 bytes, allocations up to
a mebibyte and larger ones have a pool each, and any free block of the pool that is large enough may be taken, since it
is split. Which one it is depends on addresses, so all of them are candidates. Merging of neighbours is not followed: a
block goes to no larger allocation than itself.
"""

from __future__ import annotations

from collections import defaultdict

from harness.race.clocks import Clock
from harness.race.findings import FreedBlock

ROUNDING = 512  # bytes
SMALL = 1 << 20  # bytes; the largest allocation of the small pool


class Freed:
    """The blocks of all streams that nothing has ordered yet before what their stream does next."""

    def __init__(self) -> None:
        self.blocks: defaultdict[int, list[FreedBlock]] = defaultdict(list)

    def add(self, stream: int, block: FreedBlock) -> None:
        self.blocks[stream].append(block)

    def candidates(self, nbytes: int, stream: int, clock: Clock) -> list[FreedBlock]:
        """The blocks one of which an allocation on the stream may get; those that its clock orders are forgotten."""
        kept = self.blocks[stream] = [block for block in self.blocks[stream] if in_use(block, clock)]
        return [block for block in kept if fits(nbytes, block.nbytes)]

    def forget(self, stream: int, block: FreedBlock) -> None:
        """It was reported."""
        self.blocks[stream] = [kept for kept in self.blocks[stream] if kept is not block]


def in_use(block: FreedBlock, clock: Clock) -> bool:
    return any(clock.get(use.stream, 0) < use.time for use in block.uses)


def fits(nbytes: int, block: int) -> bool:
    """Whether an allocation of so many bytes may be given a block that was allocated for `block` bytes."""
    return 0 < nbytes <= -(-block // ROUNDING) * ROUNDING and (nbytes <= SMALL) == (block <= SMALL)
