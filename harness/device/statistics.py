"""What the virtual device's allocator has handed out, in the terms of `torch.cuda.memory_stats`.

Bytes count from the allocation until the last reference is gone, rounded up to 512 as by PyTorch's caching allocator;
reserved are whole segments of 2 MiB, which stay until `empty_cache`.
"""

from __future__ import annotations

from typing import Any

BLOCK = 512
SEGMENT = 2 << 20
TOTAL_BYTES = 80 << 30  # of the device, as an A100 of 80 GB


class Counted:
    """Stands for one block; dies with its storage, and is then no longer counted."""

    __slots__ = ("nbytes", "statistics")

    def __init__(self, nbytes: int, statistics: Statistics) -> None:
        self.nbytes, self.statistics = nbytes, statistics

    def __del__(self) -> None:
        self.statistics.gave_back(self.nbytes)


class Statistics:
    """Counts of one device."""

    def __init__(self) -> None:
        self.allocated = self.peak = self.reserved = self.reserved_peak = 0
        self.blocks = self.blocks_peak = self.blocks_ever = self.bytes_ever = 0

    def took(self, nbytes: int) -> Counted:
        """A block was handed out; the answer is to live as long as it."""
        nbytes = -(-nbytes // BLOCK) * BLOCK
        self.allocated += nbytes
        self.bytes_ever += nbytes
        self.blocks += 1
        self.blocks_ever += 1
        if self.allocated > self.peak:
            self.peak = self.allocated
        if self.blocks > self.blocks_peak:
            self.blocks_peak = self.blocks
        if self.allocated > self.reserved:
            self.reserved = _segments(self.allocated)
            self.reserved_peak = max(self.reserved, self.reserved_peak)
        return Counted(nbytes, self)

    def gave_back(self, nbytes: int) -> None:
        self.allocated -= nbytes
        self.blocks -= 1

    def empty_cache(self) -> None:
        self.reserved = _segments(self.allocated)

    def reset_peak(self) -> None:
        self.peak, self.reserved_peak, self.blocks_peak = self.allocated, self.reserved, self.blocks

    def reset_ever(self) -> None:
        self.bytes_ever = self.blocks_ever = 0

    def as_dict(self) -> dict[str, Any]:
        """The keys of `torch.cuda.memory_stats` that programs read; there is no cache to run short of."""
        now = {
            "allocated_bytes": (self.allocated, self.peak, self.bytes_ever),
            "active_bytes": (self.allocated, self.peak, self.bytes_ever),
            "requested_bytes": (self.allocated, self.peak, self.bytes_ever),
            "reserved_bytes": (self.reserved, self.reserved_peak, self.reserved_peak),
            "allocation": (self.blocks, self.blocks_peak, self.blocks_ever),
            "active": (self.blocks, self.blocks_peak, self.blocks_ever),
            "inactive_split_bytes": (0, 0, 0),
        }
        found: dict[str, Any] = {
            "num_alloc_retries": 0,
            "num_ooms": 0,
            "num_device_alloc": 0,
            "num_sync_all_streams": 0,
        }
        for name, (current, peak, ever) in now.items():
            for part in ("all", "large_pool", "small_pool"):
                share = int(part != "small_pool")  # the pools are not told apart: all is in the large one
                found |= {
                    f"{name}.{part}.current": share * current,
                    f"{name}.{part}.peak": share * peak,
                    f"{name}.{part}.allocated": share * ever,
                    f"{name}.{part}.freed": share * (ever - current),
                }
        return dict(sorted(found.items()))


def _segments(nbytes: int) -> int:
    return -(-nbytes // SEGMENT) * SEGMENT
