"""Why the ranks of a job did not end well: collectives that do not match, where each waits, or the first error."""

from __future__ import annotations

import re
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.race.sites import HARNESS, short_file
from harness.system.build_locks import dead_locks, sentence

KNOWN = {
    # What DeepSpeed and Python say → what a user can do about it.
    "ZeRO parameter intra parallel group is already initialized": "DeepSpeed makes hpZ's groups once in a process, so "
    "a second zero.Init with zero_hpz_partition_size above 1 ends there (deepspeedai/DeepSpeed#4901, #7066): build "
    "both models under one zero.Init, or leave hpZ out of the second's configuration",
    "EOFError: EOF when reading a line": "standard input is closed here: take what the script asks for from its "
    "arguments or its environment",
}
BUILDS = ("op_builder/", "cpp_extension", "file_baton")  # where a rank waits for a C++ extension to be built
PLUMBING = (f"{HARNESS / 'device'}/", "/site-packages/torch/")
# A line that does not parse is in no function.
_FRAME = re.compile(r'\s+File "([^"]+)", line (\d+)(?:, in (\S+))?$')


def explain(folder: Path, ranks: int, ended: dict[str, Any], script: str | None = None) -> str:
    """Why the ranks did not end well: collectives that do not match, where each waits, or the first error."""
    mismatch = mismatch_in(folder, ranks, ended=ended["how"] in ("failed", "stalled"))
    if ended["how"] == "failed":
        return failure(folder, ended, script) + (f"; {mismatch}" if mismatch else "")
    if mismatch:
        return f"the ranks wait for each other: {mismatch}"
    where = [
        f"rank {rank} at {place}" for rank in range(ranks) if (place := waits_at(folder / f"log-{rank}.txt"))
    ]
    why = TIMED_OUT
    if ended["how"] == "stalled":
        why = f"no rank has used the processor for {ended['patience']:.0f} s"
    builds = any(place in one for place in BUILDS for one in where)
    locks = [f". {sentence(lock)}" for lock in dead_locks()] if builds or not where else []
    return f"{why}: {'; '.join(where) or 'no rank says where'}{''.join(locks)}"


TIMED_OUT = "the time limit passed"


def failure(folder: Path, ended: dict[str, Any], script: str | None) -> str:
    """The failure that the others followed from: the first whose last words are its own.

    A rank that only lost the connection to others says which of them had ended, and where it waited for them.
    """
    logs = {rank: lines_of(folder / f"log-{rank}.txt") for rank, _ in ended["failed"]}
    codes = dict(ended["failed"])
    words = {rank: last_words(lines, codes[rank]) for rank, lines in logs.items()}
    own = [rank for rank in words if not any(sign in words[rank] for sign in LOST)]
    if own:
        rank = own[0]
        cause = next((f"; {text}" for sign, text in KNOWN.items() if sign in words[rank]), "")
        return f"rank {rank} failed: {words[rank]}{raised_at(logs[rank])}{cause}"
    rank = next(iter(words))
    gone = sorted(ended.get("ended", ()))
    if not gone:
        return f"rank {rank} failed: {words[rank]}{raised_at(logs[rank])}"
    who = f"rank{'s' * (len(gone) > 1)} {', '.join(map(str, gone))}"
    place = program_place(logs[rank], script) or "a place that its log does not name"
    return f"rank {rank} waits at {place} for {who}, which never comes there: its program had ended"


LOST = (
    "Connection closed by peer",
    "Connection reset by peer",
    "Connection refused",
    "Broken pipe",
    "one of them has ended",
    "Timed out waiting",
)
OURS = re.compile(r"^harness(?:\.\w+)+\.(?=\w+: )")  # the module of an error of ours
PROGRESS = re.compile(r"\d+%\|| \d+it \[|it/s\]|s/it\]")


def last_words(lines: Sequence[str], code: int = 1) -> str:
    """What a rank that failed said last: its last exception, else its last line; progress bars say nothing."""
    said = [line.strip() for line in lines if line.strip() and not PROGRESS.search(line)]
    if code < 0:
        return f"killed by {signal.Signals(-code).name}" + (f" ({said[-1]})" if said else "")
    if code == 2 and (usage := next((line for line in reversed(said) if ": error: " in line), None)):
        return usage
    for line in last_traceback(lines)[1:]:
        if line.strip() and not line.startswith((" ", "\t")) and not PROGRESS.search(line):
            return OURS.sub("", line.strip())
    return said[-1] if said else "no output"


def last_traceback(lines: Sequence[str]) -> Sequence[str]:
    """The lines from where the last traceback begins; none where there is none."""
    starts = [at for at, line in enumerate(lines) if line.startswith("Traceback (most recent call last)")]
    return lines[starts[-1] :] if starts else ()


def program_place(lines: Sequence[str], script: str | None) -> str | None:
    """The innermost line of the script's folder in the last traceback: `train.py:5 (code)`."""
    if script is None:
        return None
    folder, found = Path(script).parent, None
    for at, line in enumerate(lines):
        frame = _FRAME.match(line)
        if frame and Path(frame[1]).is_relative_to(folder):
            code = lines[at + 1].strip() if at + 1 < len(lines) else ""
            found = f"{Path(frame[1]).name}:{frame[2]} ({code})"
    return found


def raised_at(lines: Sequence[str]) -> str:
    """Where the last traceback of a log ends: ` (in FILE:LINE, FUNCTION)`; empty where there is none.

    The device's frames and torch's are left out: the line that called them says more.
    """
    everything = [found for line in last_traceback(lines) or lines if (found := _FRAME.match(line))]
    if not everything:
        return ""
    frames = [frame for frame in everything if not any(part in frame[1] for part in PLUMBING)] or everything
    file, line, function = frames[-1].groups()
    return f" (in {short_file(file)}:{line}{f', {function}' if function else ''})"


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
    """Lines of a log; what a progress bar wrote over itself are lines, too."""
    return text_of(file).splitlines()


def text_of(file: Path) -> str:
    return file.read_text(errors="replace") if file.exists() else ""
