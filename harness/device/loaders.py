"""`DataLoader(pin_memory=True)`: its batches lie in pinned memory, as they do on a machine with a GPU.

Torch pins nothing where it finds no accelerator. Where the loader would have a thread that pins batches ahead, here
each is pinned as it is handed over: the queue between the two orders as much, and pinned memory that is used anew
comes from an allocator that awaits the copies from it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from harness.device.torch_private import LoaderIterator, pin_batch


@contextmanager
def pinning_loaders() -> Iterator[None]:
    """Inside, loaders that were asked to pin do so. The pinning itself is that of `Tensor.pin_memory`."""
    start, following = LoaderIterator.__init__, LoaderIterator.__next__

    def started(iterator: Any, loader: Any, *args: Any, **kwargs: Any) -> None:
        wanted, loader.pin_memory = loader.pin_memory, False
        try:
            start(iterator, loader, *args, **kwargs)
        finally:
            loader.pin_memory = wanted
        iterator.pins = wanted

    def pinned(iterator: Any) -> Any:
        batch = following(iterator)
        return pin_batch(batch) if iterator.pins else batch

    LoaderIterator.__init__, LoaderIterator.__next__ = started, pinned
    try:
        yield
    finally:
        LoaderIterator.__init__, LoaderIterator.__next__ = start, following
