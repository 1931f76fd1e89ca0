"""Why the ranks of a job did not end well: collectives that do not match, where each waits, or the first error."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.system.build_locks import dead_locks, sentence

KNOWN = {
    # What DeepSpeed says → what a user can do about it.
    "ZeRO parameter intra parallel group is already initialized": "DeepSpeed makes hpZ's groups once in a process, so "
    "a second zero.Init with zero_hpz_partition_size above 1 ends there (deepspeedai/DeepSpeed#4901, #7066): build "
    "both models under one zero.Init, or leave hpZ out of the second's configuration",
}
BUILDS = ("op_builder/", "cpp_extension", "file_baton")  # where a rank waits for a C++ extension to be built
_FRAME = re.compile(r'\s+File "([^"]+)", line (\d+), in (\S+)')


def explain(folder: Path, ranks: int, ended: dict[str, Any]) -> str:
    """Why the ranks did not end well: collectives that do not match, where each waits, or the first error."""
    mismatch = mismatch_in(folder, ranks, ended=ended["how"] in ("failed", "stalled"))
    if ended["how"] == "failed":
        rank = ended["rank"]
        lines = lines_of(folder / f"log-{rank}.txt")
        last = next((line for line in reversed(lines) if line.strip()), "no output")
        cause = next((f"; {text}" for words, text in KNOWN.items() if words in last), "")
        return f"rank {rank} failed: {last.strip()}{raised_at(lines)}{cause}" + (
            f"; {mismatch}" if mismatch else ""
        )
    if mismatch:
        return f"the ranks wait for each other: {mismatch}"
    where = [
        f"rank {rank} at {place}" for rank in range(ranks) if (place := waits_at(folder / f"log-{rank}.txt"))
    ]
    why = "the time limit passed"
    if ended["how"] == "stalled":
        why = f"no rank has used the processor for {ended['patience']:.0f} s"
    builds = any(place in one for place in BUILDS for one in where)
    locks = [f". {sentence(lock)}" for lock in dead_locks()] if builds or not where else []
    return f"{why}: {'; '.join(where) or 'no rank says where'}{''.join(locks)}"


def raised_at(lines: Sequence[str]) -> str:
    """Where the last traceback of a log ends: ` (in FILE:LINE, FUNCTION)`; empty where there is none."""
    frames = [found for line in lines if (found := _FRAME.match(line))]
    if not frames:
        return ""
    file, line, function = frames[-1].groups()
    return f" (in {'/'.join(Path(file).parts[-3:])}:{line}, {function})"


def mismatch_in(folder: Path, ranks: int, ended: bool = True) -> str | None:
    """The first mismatch among the collectives that the ranks of a job have issued so far."""
    return first_mismatch([lines_of(folder / f"collectives-{rank}.txt") for rank in range(ranks)], ended)


def first_mismatch(issued: Sequence[Sequence[str]], ended: bool = True) -> str | None:
    """The first collective that two ranks of a group issued differently; None where all agree.

    While they have not `ended`, a rank that has issued fewer may only be slower.

    `issued` holds for each rank its lines `GROUP RANKS OP BYTES PLACE`, in order of issue. Groups of the same ranks
    count as one, since ranks number their groups each for itself.
    """
    calls = [[line.split(" ", 4)[1:] for line in lines] for lines in issued]
    for group in dict.fromkeys(call[0] for mine in calls for call in mine):
        members = [rank for rank in map(int, group.split(",")) if rank < len(calls)]
        mine = {rank: [call for call in calls[rank] if call[0] == group] for rank in members}
        one = members[0]
        for other in members[1:]:
            shorter = min(len(mine[one]), len(mine[other]))
            pair = [(rank, mine[rank] if ended else mine[rank][:shorter]) for rank in (one, other)]
            if sentence := _difference(group, *pair):
                return sentence
    return None


def _difference(
    group: str, one: tuple[int, list[list[str]]], other: tuple[int, list[list[str]]]
) -> str | None:
    (rank, calls), (other_rank, others) = one, other
    for at, (a, b) in enumerate(zip(calls, others, strict=False)):
        if a[1:3] != b[1:3]:
            return (
                f"collective {at} of ranks {group} differs: rank {rank} issued {a[1]} of {a[2]} bytes at {a[3]}, "
                f"rank {other_rank} {b[1]} of {b[2]} bytes at {b[3]}"
            )
    if len(calls) == len(others):
        return None
    longer, shorter = (rank, other_rank) if len(calls) > len(others) else (other_rank, rank)
    extra = max(calls, others, key=len)[min(len(calls), len(others))]
    return (
        f"rank {longer} issued {extra[1]} of {extra[2]} bytes among ranks {group} at {extra[3]}; "
        f"rank {shorter} never did"
    )


def waits_at(log: Path) -> str | None:
    """The innermost frame of the user's program in the traceback that a stalled rank dumped."""
    frames = [line.strip() for line in lines_of(log) if line.startswith("  File ")]
    for frame in frames:
        if not any(
            part in frame for part in ("/torch/", "harness/device", "harness/race", "/deepspeed/comm/")
        ):
            return frame.removeprefix("File ").replace('"', "")
    return None


def lines_of(file: Path) -> list[str]:
    return text_of(file).splitlines()


def text_of(file: Path) -> str:
    return file.read_text(errors="replace") if file.exists() else ""
