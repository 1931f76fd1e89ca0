"""Which memory is the device's, and which host memory is pinned: a mark on each storage, that lives as long as it.

`torch.device("cpu:0")` names the virtual device and plain `cpu` the host; torch itself keeps both in the same memory.
Programs that are written for CUDA see another name (harness.device.shown).
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Any

import torch

from harness.device.errors import DeviceError
from harness.device.observe import HOST, Access
from harness.device.poison import Poison, use_on
from harness.device.shown import DEVICE, shown
from harness.device.statistics import Statistics
from harness.device.streams import Machine, Stream
from harness.device.subclasses import is_made_of_others, parts_of
from harness.device.torch_private import inside_vmap, keep_attributes

__all__ = [
    "DEVICE",
    "Memory",
    "accesses",
    "allocation_of",
    "is_pinned",
    "names_device",
    "on_device",
    "record_stream",
]


class Allocation:
    """The mark of device memory: its number, counted from 0 in the order of allocation; of pinned, down from -1."""

    __slots__ = ("id", "recorded", "stream")

    def __init__(self, number: int, stream: int) -> None:
        self.id, self.stream = number, stream
        self.recorded: tuple[Stream, ...] = ()  # streams that the allocator was told of besides


class WatchedAllocation(Allocation):
    """Tells the observers when the memory is free."""

    __slots__ = ("machine",)

    def __init__(self, number: int, stream: int, machine: Machine) -> None:
        super().__init__(number, stream)
        self.machine = machine

    def __del__(self) -> None:
        for observer in self.machine.observers:
            observer.on_free(self.id)


class DeviceName(str):
    """The accelerator's name without an index: equal to "cpu", yet a tensor sent there goes to the device."""


def allocation_of(tensor: torch.Tensor) -> Allocation | None:
    """The mark of device memory or of pinned host memory; None for pageable host memory."""
    storage = tensor.untyped_storage()
    return getattr(storage, "allocation", None) or getattr(storage, "pinned", None)


def on_device(tensor: torch.Tensor) -> bool:
    """Whether the tensor lies in device memory. Call it with torch functions disabled, or pay for it."""
    try:
        if hasattr(tensor.untyped_storage(), "allocation"):
            return True
    except NotImplementedError:  # transformers 4.56 makes its masks so
        return on_device(inside_vmap(tensor))
    return is_made_of_others(type(tensor)) and any(map(on_device, parts_of(tensor)))


def record_stream(tensor: torch.Tensor | None, stream: Stream) -> None:
    """The allocator is told that a stream uses the memory (torch.Tensor.record_stream)."""
    allocation = None if tensor is None else allocation_of(tensor)
    if tensor is not None and allocation is not None:
        use_on(tensor, stream)
        allocation.recorded += (stream,)
        for observer in stream.machine.observers:
            observer.on_record_stream(allocation.id, stream.id)


def is_pinned(tensor: torch.Tensor) -> bool:
    return hasattr(tensor.untyped_storage(), "pinned")


@lru_cache(typed=True)  # a DeviceName equals its plain string, and 0 equals False
def names_device(device: Any) -> bool | None:
    """Whether a `device=` argument names the virtual device (True) or the host (False); None for neither, as meta.

    As with CUDA, a bare number names a device, and so does the accelerator's own name. Raises DeviceError where CUDA's
    names are mapped and this process has another of its devices.
    """
    if isinstance(device, DeviceName) or (isinstance(device, int) and not isinstance(device, bool)):
        return True
    parsed = torch.device(device)
    if parsed.type == "cuda" and shown.mapped:
        if parsed.index is not None:
            shown.claim(parsed.index)
        return True
    return parsed.index is not None if parsed.type == "cpu" else None


class Memory:
    """Allocates and marks device memory for one machine."""

    def __init__(self, machine: Machine, poison: Poison) -> None:
        self.machine, self.poison = machine, poison
        self.allocated = self.pinned = 0  # allocations so far, of the device and of pinned host memory
        self.statistics: Statistics | None = None  # kept for programs that can ask for them

    def adopt(self, tensor: torch.Tensor) -> None:
        """Mark the storage of a tensor that has its content as device memory, if it is not yet. Raises DeviceError."""
        if tensor.layout is not torch.strided:
            raise DeviceError(
                f"a tensor of layout {tensor.layout} cannot be followed on the virtual device; make it dense for this "
                "run, as by torch.nn.Embedding(…, sparse=False): which stream waits for which stays the same"
            )
        storage = tensor.untyped_storage()
        if not hasattr(storage, "allocation"):
            self._mark(storage, written=True)

    def pin(self, tensor: torch.Tensor) -> torch.Tensor:
        """Mark fresh host memory as pinned; what the host fills it with is not followed, so it counts as written."""
        self.pinned += 1
        storage: Any = tensor.untyped_storage()
        storage.pinned = self._watched(-self.pinned, storage.nbytes(), HOST, True)
        keep_attributes(storage)
        return tensor

    def empty(self, size: Any, stride: Any, dtype: torch.dtype) -> torch.Tensor:
        """Fresh device memory with the poison's content."""
        tensor = self.poison.allocate(size, stride, dtype, self.machine.current.id)
        self._mark(tensor.untyped_storage())
        return tensor

    def refill(self, tensor: torch.Tensor) -> torch.Tensor:
        """The same for a tensor that torch has just allocated; it may be given back itself."""
        fresh = self.poison.renew(tensor, self.machine.current.id)
        self._mark(fresh.untyped_storage())
        return fresh

    def give_back(self, storage: Any) -> None:
        """The program frees a storage that it keeps. Who touches it now reads what nobody has written."""
        allocation = storage.allocation
        for stream in allocation.recorded:
            self.machine.run_until(stream, stream.issued)
        self._mark(storage, stream=allocation.stream)

    def take_again(self, storage: Any) -> None:
        """The program wants memory again for such a storage: the block that it had, which is of one stream's pool."""
        if storage.allocation.stream != self.machine.current.id:
            self.machine.finish()
        self._mark(storage)

    def _mark(self, storage: Any, written: bool = False, stream: int | None = None) -> None:
        number = self.allocated
        self.allocated += 1
        stream = self.machine.current.id if stream is None else stream
        if self.machine.observers:
            storage.allocation = self._watched(number, storage.nbytes(), stream, written)
        else:
            storage.allocation = Allocation(number, stream)
        if self.statistics is not None:
            storage.counted = self.statistics.took(storage.nbytes())
        keep_attributes(storage)

    def _watched(self, number: int, nbytes: int, stream: int, written: bool) -> Allocation:
        machine = self.machine
        for observer in machine.observers:
            observer.on_alloc(number, nbytes, stream, written)
        return WatchedAllocation(number, stream, machine)


def accesses(tensors: Iterable[torch.Tensor]) -> tuple[Access, ...]:
    """The elements of tensors in device or pinned memory, exactly; nobody but the host touches other memory."""
    return tuple(
        [
            Access(
                allocation.id,
                int(tensor.storage_offset()),
                tensor.size(),
                tensor.stride(),
                tensor.element_size(),
            )
            for tensor in tensors
            if (allocation := allocation_of(tensor)) is not None
        ]
    )
