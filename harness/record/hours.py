"""What runs took on SLURM, in hours of all their ranks: planned, used, lost to restarts and to runs that failed.

A *turn* is one srun of a run's ranks, a line of allocations.jsonl. One whose driver was killed is not in there: it is
known from status.json, up to the end of its job or its last sign of life, until the next driver writes it down.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from harness.budget import planned_gpu_hours, spent_hours, unit_of
from harness.hardware import find_card
from harness.record.directory import OPEN, RunDirectory, Status, whole_lines
from harness.study import Run, Study

AS_MEANT = ("reached", "running")
FILE = "allocations.jsonl"


@dataclass(frozen=True)
class Turn:
    """One start of a run's ranks; its steps from `from_step` to `until_step` need not be made again."""

    started_utc: str
    ended_utc: str
    from_step: int
    until_step: int
    outcome: str  # reached, stopped, failed, out-of-memory, killed; lost: nobody wrote it down; running

    @property
    def seconds(self) -> float:
        begun, ended = (datetime.fromisoformat(utc) for utc in (self.started_utc, self.ended_utc))
        return max((ended - begun).total_seconds(), 0.0)


@dataclass(frozen=True)
class Hours:
    """Of runs of one variant, or of all (`variant` None); the two losses are part of what is used."""

    variant: str | None
    unit: str  # GPU-hours, or rank-hours where ranks have no GPU of their own
    runs: int
    planned: float | None  # of all steps; None where the card is not known, or there is none
    used: float
    restarts: float
    failed: float


def read_turns(directory: RunDirectory) -> list[Turn]:
    """All turns of a run, the oldest first; also one that is at work, or that nobody has written down."""
    written = _written(directory)
    unwritten = _unwritten(written, directory.status())
    return [*written, unwritten] if unwritten else written


def _unwritten(written: Sequence[Turn], status: Status) -> Turn | None:
    """The last turn, as far as status.json knows it, where there is no line of it.

    It ended with its job, where somebody asked SLURM, and not before its last sign of life: SLURM tells whole seconds,
    rounded down.
    """
    started = status.started_utc
    if started is None or any(turn.started_utc == started for turn in written):
        return None
    begun = written[-1].until_step if written else 0
    reached = max(begun, (status.step or 0) + 1) if status.state == "running" else begun
    outcome = "reached" if status.final else "running" if status.state in OPEN else "lost"
    ended = max(started, status.ended_utc or "", status.heartbeat_utc or "")
    return Turn(started, ended, begun, reached, outcome)


def close_lost_turn(directory: RunDirectory, until_step: int) -> None:
    """Write down the turn whose driver was killed, before another begins from step `until_step`."""
    status = directory.status()
    turn = _unwritten(_written(directory), status)
    if turn is not None and status.final is None:
        lost = replace(turn, until_step=max(until_step, turn.from_step), outcome="lost")
        line = {"schema": 1, **vars(lost), "reason": "its driver was killed"}
        with (directory.path / FILE).open("a") as stream:
            stream.write(json.dumps(line) + "\n")


def run_hours(directory: RunDirectory, run: Run, study: Study) -> Hours:
    """Of one run."""
    turns, status = read_turns(directory), directory.status()
    kept = _kept_seconds(directory, turns)
    spent = spent_hours(
        ((turn.seconds, seconds) for turn, seconds in zip(turns, kept, strict=True)),
        run.shape.world_size,
        failed=status.state not in (*OPEN, "done"),
    )
    return Hours(
        run.variant, unit_of(run), 1, planned_hours(run, study), spent.used, spent.restarts, spent.failed
    )


def planned_hours(run: Run, study: Study) -> float | None:
    """GPU-hours of all steps of a run at the study's assumed MFU; None where its card is not known."""
    if study.gpu is None or run.device != "cuda":
        return None
    return planned_gpu_hours(run, find_card(study.gpu), study.plan.mfu)


def study_hours(study: Study, results: Path) -> list[Hours]:
    """A row a variant, in study order, then one for each unit with all of it."""
    rows = [run_hours(RunDirectory(results / "runs" / run.run_id), run, study) for run in study.runs]
    by_variant: dict[tuple[str | None, str], list[Hours]] = {}
    for row in rows:
        by_variant.setdefault((row.variant, row.unit), []).append(row)
    whole = {unit: [row for row in rows if row.unit == unit] for unit in dict.fromkeys(r.unit for r in rows)}
    return [
        *(_sum(variant, mine) for (variant, _), mine in by_variant.items()),
        *(_sum(None, mine) for mine in whole.values()),
    ]


def _sum(variant: str | None, rows: list[Hours]) -> Hours:
    planned = [row.planned for row in rows if row.planned is not None]
    return Hours(
        variant,
        rows[0].unit,
        len(rows),
        sum(planned) if len(planned) == len(rows) else None,
        sum(row.used for row in rows),
        sum(row.restarts for row in rows),
        sum(row.failed for row in rows),
    )


def _kept_seconds(directory: RunDirectory, turns: list[Turn]) -> list[float | None]:
    """For each turn that did not end as meant, the seconds of the steps that are recorded of it; else None."""
    if all(turn.outcome in AS_MEANT for turn in turns):
        return [None] * len(turns)
    seconds: dict[int, float] = {}
    for line in whole_lines(directory.steps_file):
        seconds[line["step"]] = line["step_seconds"] or 0.0
    return [
        None
        if turn.outcome in AS_MEANT
        else sum(seconds.get(step, 0.0) for step in range(turn.from_step, turn.until_step))
        for turn in turns
    ]


def _written(directory: RunDirectory) -> list[Turn]:
    return [turn for line in whole_lines(directory.path / FILE) if (turn := _turn(line))]


def _turn(line: dict[str, Any]) -> Turn | None:
    with suppress(KeyError):
        return Turn(**{name: line[name] for name in Turn.__dataclass_fields__})
    return None
