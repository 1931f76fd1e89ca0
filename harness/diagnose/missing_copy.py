"""Which elements of hpZ's secondary partitions the copy of before DeepSpeed 0.13.5 never writes, computed.

This is arithmetic on sizes: no tensor, no stream, no chance. It says for a model's parameter sizes whether the
*missing copy* can strike, apart from the race. Source: `_partition_param_sec` of 0.13.4, rewritten by #5216.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.system.errors import HarnessError

Ints = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Slices:
    """Per rank (all arrays have shape [world]): its slice of a parameter, and how much of it the old copy writes."""

    start: Ints
    """First element of the rank's secondary slice."""
    valid: Ints
    """How many elements of the slice exist; the rest is padding."""
    written: Ints
    """How many of the valid elements, from the start of the slice, the old copy writes."""
    raises: NDArray[np.bool_]
    """Whether the rank reads beyond the parameter's end, so that training stops with an error (tiny sizes)."""

    @property
    def unwritten(self) -> Ints:
        """Valid elements that are never written, per rank."""
        return self.valid - self.written

    def ranges(self) -> list[tuple[int, int]]:
        """Per rank, the half-open range of parameter elements that it never writes (empty where begin == end)."""
        begin = self.start + self.written
        return [(int(b), int(b + n)) for b, n in zip(begin, self.unwritten, strict=True)]


def old_copy(numel: int, world: int, hpz: int) -> Slices:
    """The old copy of a parameter of `numel` elements over `world` ranks in hpZ groups of `hpz`.

    Raises HarnessError where `hpz` does not divide `world` or a size is not positive.
    """
    _check(world, hpz)
    if numel < 1:
        raise HarnessError(f"a parameter of {numel} elements cannot be partitioned; sizes are positive")
    rank = np.arange(world, dtype=np.int64)
    primary = -(-numel // world)  # elements of a primary partition, padding included
    secondary = primary * (world // hpz)
    start = secondary * (rank % hpz)
    valid = np.clip(numel - start, 0, secondary)
    # A rank looks at its *primary* partition: full, cut by the end of the parameter, or beyond it.
    first = primary * rank
    whole = (first + primary <= numel) & (first < numel)
    complete = (start < numel) & (start + secondary <= numel)
    cut = np.where(first < numel, (numel - first) * (world // hpz), 0)
    written = np.where(whole, np.where(complete, secondary, 0), cut)
    raises = ~whole & (start + cut > numel)
    return Slices(start=start, valid=valid, written=np.minimum(written, valid), raises=raises & (cut > 0))


def old_copy_raises(numel: int, world: int, hpz: int) -> bool:
    """Whether the copy of up to 0.13.4 stops with an error: what it reads ends beyond the parameter's end."""
    return bool(old_copy(numel, world, hpz).raises.any())


def new_copy_raises(numel: int, world: int, hpz: int) -> bool:
    """Whether the copy of 0.13.5 to 0.19.4 stops with an error: a rank's slice begins beyond the parameter's end.

    Source: up to 0.14.3 its length is then negative; #5652 (0.14.4) made that zero but kept the start, which is still
    out of range (#6659); #8210 (0.19.5) leaves the copy out. Raises HarnessError where `hpz` does not divide `world`.
    """
    return bool((old_copy(numel, world, hpz).start > numel).any())


def unwritten_elements(numels: Iterable[int], world: int, hpz: int) -> Ints:
    """Never-written elements in one hpZ group, worst group, for each parameter size; shape [sizes].

    Zero where the size divides by `world`, and everywhere where `hpz == world`. Raises HarnessError.
    """
    _check(world, hpz)
    groups = [old_copy(numel, world, hpz).unwritten.reshape(-1, hpz).sum(axis=1).max() for numel in numels]
    return np.asarray(groups, dtype=np.int64)


@dataclass(frozen=True, kw_only=True)
class Missing:
    """What the old copy misses in a whole model."""

    parameters: int
    """Parameters with an element that some rank never writes."""
    elements: int
    """Never-written elements over all ranks and parameters."""
    share: float
    """Of all valid secondary elements over all ranks, in 0…1."""


def missing_in_model(numels: Iterable[int], world: int, hpz: int) -> Missing:
    """Sums the old copy's misses over a model's parameter sizes. Raises HarnessError."""
    slices = [old_copy(numel, world, hpz) for numel in numels]
    unwritten = [int(one.unwritten.sum()) for one in slices]
    valid = sum(int(one.valid.sum()) for one in slices)
    return Missing(
        parameters=sum(count > 0 for count in unwritten),
        elements=sum(unwritten),
        share=sum(unwritten) / valid if valid else 0.0,
    )


def _check(world: int, hpz: int) -> None:
    if world < 1 or hpz < 1 or world % hpz:
        raise HarnessError(f"zero_hpz_partition_size={hpz} must divide the world size {world}")
