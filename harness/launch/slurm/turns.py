"""In which order the variants of a pair group take their turns, and at which step each turn ends."""

from __future__ import annotations

from collections.abc import Iterator

from harness.record import RunDirectory


def turns(runs: list[RunDirectory], blocks: int) -> Iterator[tuple[int, list[RunDirectory]]]:
    """Block numbers with the runs in the order of that block: forth, back, forth, …"""
    for block in range(blocks):
        yield block, runs if block % 2 == 0 else runs[::-1]


def block_end(steps: int, block: int, blocks: int) -> int:
    """The step at which a block ends; the last one ends with the run."""
    return steps * min(block + 1, blocks) // blocks
