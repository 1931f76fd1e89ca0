"""Run directories become two tables, runs.parquet and steps.parquet; only what is new is read again.

A study may still be running: a line that is not whole yet, or cannot be read, is counted and named, and the rest kept.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from analysis.collect import runs as runs_table
from analysis.collect import steps as steps_table
from analysis.collect.sources import Problem, Source
from analysis.collect.tables import STEP_COLUMNS, STEPS
from harness.system.errors import HarnessError


@dataclass(frozen=True, eq=False)
class Collected:
    """What a collection found; the tables are read from their files when they are asked for."""

    folder: Path
    sources: list[Source]
    problems: list[Problem] = field(default_factory=list)
    lines_read: int = 0  # by this collection; lines read earlier are not read again

    @cached_property
    def runs(self) -> pd.DataFrame:
        """One row a run; the columns are those of analysis.collect.tables.RUN_COLUMNS."""
        frame: pd.DataFrame = pq.read_table(self.folder / runs_table.NAME).to_pandas()
        return frame

    def by_run(self, columns: Iterable[str]) -> Iterator[tuple[str, pa.Table]]:
        """Each run that has steps with these columns of the steps table, in no order; its steps are in order."""
        return steps_table.read_steps(self.folder / steps_table.NAME, columns)

    def steps(self, columns: Iterable[str] | None = None) -> pd.DataFrame:
        """The steps of all runs, a run's steps in order; `run_id` is categorical. `columns` limits what is read."""
        names = list(STEP_COLUMNS if columns is None else columns)
        read = sorted(self.by_run(names), key=lambda run: run[0])
        codes = np.repeat(np.arange(len(read), dtype=np.int32), [table.num_rows for _, table in read])
        run_ids = pd.Categorical.from_codes(codes, pd.Index([run_id for run_id, _ in read], dtype=str))
        empty = pa.schema([STEPS.field(name) for name in names]).empty_table()
        table = pa.concat_tables([empty, *(table for _, table in read)])
        del read  # for `self_destruct` frees a column as soon as it is copied
        frame: pd.DataFrame = table.to_pandas(self_destruct=True)
        frame.insert(0, "run_id", pd.Series(run_ids))
        return frame

    def counts(self) -> dict[str, Any]:
        """Numbers of the collection, for `--json`."""
        states = pq.read_table(self.folder / runs_table.NAME, columns=["state"])["state"].to_pylist()
        return {
            "folder": str(self.folder),
            "runs": len(states),
            "runs_done": states.count("done"),
            "steps": sum(source.rows for source in self.sources),
            "lines_read": self.lines_read,
            "duplicate_steps": sum(source.duplicates for source in self.sources),
            "problems": [str(problem) for problem in self.problems],
        }

    def describe(self) -> str:
        """The same numbers for a person."""
        counts = self.counts()
        lines = [
            f"{self.folder}: {counts['runs']} runs ({counts['runs_done']} done), {counts['steps']:,} steps; "
            f"{counts['lines_read']:,} new lines read"
        ]
        if counts["duplicate_steps"]:
            lines.append(
                f"{counts['duplicate_steps']:,} steps recorded again after a resume; the last one counts"
            )
        shown = counts["problems"][:20]
        lines += shown
        if more := len(self.problems) - len(shown):
            lines.append(f"and {more} more problems (see --json)")
        return "\n".join(lines)


def collect(study_dir: str | Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The frames `runs` and `steps` of a results folder; columns and units are those of analysis.collect.tables."""
    collected = collect_study(study_dir)
    return collected.runs, collected.steps()


def collect_study(study_dir: str | Path) -> Collected:
    """Bring runs.parquet and steps.parquet of a results folder up to date.

    A folder without run directories but with both tables (as committed reference results are) is read as it is.
    One that was only simulated has two empty tables. Raises HarnessError where there is nothing of all that.
    """
    folder = Path(study_dir)
    runs = folder / "runs"
    simulated = (folder / "simulated" / "cells.csv").is_file()
    if not runs.is_dir() and not (simulated and not (folder / steps_table.NAME).exists()):
        return _tables_alone(folder)
    seen = runs_table.look_at_runs(folder, _directories(runs) if runs.is_dir() else [])
    sources, lines_read = steps_table.update_steps(folder, seen.stamps)
    runs_table.update_runs(folder, seen, sources)
    problems = [*seen.problems, *(problem for source in sources for problem in source.problems)]
    return Collected(folder, sources, problems, lines_read)


def _directories(runs: Path) -> list[str]:
    with os.scandir(runs) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir())


def _tables_alone(folder: Path) -> Collected:
    if not all((folder / name).exists() for name in (runs_table.NAME, steps_table.NAME)):
        raise HarnessError(
            f"{folder}: holds neither runs/ nor collected tables; run the study (hpz run) or simulate it (hpz simulate)"
        )
    sources = steps_table.sources_of(folder / steps_table.NAME)
    return Collected(folder, sources, [problem for source in sources for problem in source.problems])
