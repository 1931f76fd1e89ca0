"""A process group of one rank over gloo, for tests that need collectives and no other process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch.distributed as dist

_ended: list[Any] = []


@contextmanager
def world_of_one() -> Iterator[None]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    # Kept to the end of the process: where torch 2.4 frees a group it holds the interpreter's lock and joins gloo's
    # threads, and a thread that is about to free a tensor waits for that lock.
    _ended.append(dist.group.WORLD)
    yield
    dist.destroy_process_group()
