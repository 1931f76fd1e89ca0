"""How an srun ended: what its exit code, its words and the run's files say of each rank."""

from __future__ import annotations

import re
import signal
from dataclasses import dataclass
from typing import Literal

from harness.launch.memory import out_of_memory
from harness.record import Exit, RunDirectory
from harness.study import Run
from harness.system.utc import utc_now

FAILED_TASK = re.compile(r"srun: error: (?P<node>\S+): tasks? (?P<tasks>[\d,-]+): (?P<what>.+)")
STOPS = (signal.SIGUSR1, signal.SIGTERM)

Outcome = Literal["reached", "stopped", "failed", "out-of-memory", "killed"]


@dataclass(frozen=True)
class Ended:
    """How one srun ended."""

    outcome: Outcome
    reason: str | None
    exits: dict[int, Exit]


def steps_reached(directory: RunDirectory) -> int:
    """Steps that need not be done again: all of them once the final record is there, else the checkpoint's."""
    final = directory.status().final
    if final is not None:
        return final.steps
    latest = directory.checkpoints / "latest"
    match = re.fullmatch(r"step(\d+)", latest.read_text().strip()) if latest.exists() else None
    return int(match[1]) if match else 0


def close_finished(directory: RunDirectory) -> None:
    """Mark a run as done whose job died between the final record and `settle`: it has no step left to end with."""
    status = directory.status()
    if status.final is not None and status.state != "done":
        directory.update_status(state="done", reason=None, ended_utc=status.ended_utc or utc_now())


def judge(
    directory: RunDirectory, run: Run, turn: tuple[int, int], code: int, errors: list[str], asked: bool
) -> Ended:
    """What an ended srun means, from its exit code, its words and the run's files; `turn`: steps from, until."""
    begun, until = turn
    exits = parse_exits(errors, run.shape.world_size, code)
    if directory.status().final is not None:
        return Ended("reached", None, exits)  # what dies after the final record has no work left
    if code == 0:
        if steps_reached(directory) >= until:
            return Ended("reached", None, exits)
        if asked:
            return Ended("stopped", None, exits)
        if steps_reached(directory) > begun:  # only a signal to stop leads there
            return Ended("stopped", "SLURM told its steps to stop, and not its job", exits)
        return Ended("failed", "every rank ended with code 0 but none wrote the final record", exits)
    if asked and _died_of_the_stop(exits, code):
        return Ended("stopped", None, exits)
    if out_of_memory(directory, run.shape.world_size, errors):
        return Ended("out-of-memory", "a rank ran out of memory; see log/rank-*.txt", exits)
    first = next((rank for rank, e in sorted(exits.items()) if e.code not in (0, None)), None)
    if first is None:
        return Ended("killed", _first_death(errors, code), exits)
    last = " ".join(directory.last_lines(first, 1)) or _words_before_a_log(errors)
    return Ended("failed", f"rank {first} ended with code {exits[first].code}: {last}", exits)


def _died_of_the_stop(exits: dict[int, Exit], code: int) -> bool:
    """Whether srun, or a rank that did not listen yet, ended by the signal that asks for a stop: no step is lost."""
    words = {signal.strsignal(number) for number in STOPS}
    return -code in STOPS or any(e.signal in words for e in exits.values())


def _words_before_a_log(errors: list[str]) -> str:
    """What was said where a rank could not even open its log, as by a container that does not start."""
    return next((line for line in errors if line.strip() and not line.startswith("srun:")), "no output")


def _first_death(errors: list[str], code: int) -> str:
    match = next((match for line in errors if (match := FAILED_TASK.match(line))), None)
    if match:
        return f"rank {match['tasks']} on {match['node']}: {match['what']}"
    return f"srun ended with {'signal' if code < 0 else 'code'} {abs(code)}"


def parse_exits(errors: list[str], world_size: int, code: int) -> dict[int, Exit]:
    """How each rank ended, from srun's lines such as `srun: error: n0: tasks 0-1: Exited with exit code 2`."""
    exits: dict[int, Exit] = {}
    for line in errors:
        match = FAILED_TASK.match(line)
        for rank in parse_ranks(match["tasks"]) if match else []:
            exits[rank] = _exit(match["what"]) if match else Exit()
    rest = Exit(code=0, reason="finished") if code == 0 else Exit(reason="taken down with the run")
    return {rank: exits.get(rank, rest) for rank in range(world_size)}


def _exit(what: str) -> Exit:
    match = re.match(r"Exited with exit code (\d+)", what)
    return Exit(code=int(match[1]), reason=what) if match else Exit(signal=what, reason=what)


def parse_ranks(text: str) -> list[int]:
    """`0,2-4` as [0, 2, 3, 4]."""
    pairs = (part.partition("-") for part in text.split(","))
    return [rank for low, _, high in pairs for rank in range(int(low), int(high or low) + 1)]
