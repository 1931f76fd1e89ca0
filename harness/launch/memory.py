"""Out of memory is a result of its own: how it is told from other deaths, on this machine and on SLURM."""

from __future__ import annotations

from collections.abc import Iterable

from harness.record import RunDirectory

LINES = 20  # of each rank's output, from its end
WORDS = ("out of memory", "oom_kill", "oom-kill", "outofmemoryerror", "memoryerror", "defaultcpuallocator")


def out_of_memory(directory: RunDirectory, world_size: int, further: Iterable[str] = ()) -> bool:
    """Whether CUDA, Python or torch said so in what a rank printed last, or SLURM in `further` lines."""
    said = (line for rank in range(world_size) for line in directory.last_lines(rank, LINES))
    return any(word in line.lower() for line in (*further, *said) for word in WORDS)
