"""Storages that a program frees and takes again in place (`UntypedStorage.resize_`), as FSDP does its parameters.

Torch would take the memory away from under ops that are still to run. Here a storage keeps its memory and only says
another size: what comes back holds what was there before, as from CUDA's caching allocator, which hands a freed block
to the next on the same stream, once the streams that `Tensor.record_stream` named are done with it (PyTorch, CUDA
semantics, "Memory management").
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from harness.device.memory import Memory

Storage = torch.UntypedStorage


@contextmanager
def resized_storages(memory: Memory) -> Iterator[None]:
    """Inside, it is so of the storages of device memory."""
    plain_resize, plain_nbytes = Storage.resize_, Storage.nbytes

    def resize_(storage: Any, size: int) -> Any:
        before = storage.nbytes()
        if not hasattr(storage, "allocation") or size == before:
            return plain_resize(storage, size)
        if size > plain_nbytes(storage):
            memory.machine.finish()
            plain_resize(storage, size)
        storage.said_nbytes = size
        if not size:
            memory.give_back(storage)
        elif not before:
            memory.take_again(storage)
        return storage

    def nbytes(storage: Any) -> int:
        said: int | None = getattr(storage, "said_nbytes", None)
        return plain_nbytes(storage) if said is None else said

    Storage.resize_, Storage.nbytes = resize_, nbytes  # type: ignore[assignment,method-assign]
    try:
        yield
    finally:
        for name in ("resize_", "nbytes"):
            delattr(Storage, name)  # the base class's show again
