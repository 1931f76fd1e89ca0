"""Run directories become two tables, runs.parquet and steps.parquet; only lines that are new are read again.

steps.parquet holds one row group a run, and in its metadata how far each steps.jsonl was read. A study may still be
running: a line that is not whole yet, or cannot be read, is counted and named, and the rest is kept.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from analysis.collect.lines import last_of_each_step, parse_lines
from analysis.collect.run_rows import run_row
from analysis.collect.sources import Problem, Source, new_bytes, tail_hash, unchanged
from analysis.collect.tables import RUNS, STEP_COLUMNS, STEPS
from harness.system.errors import HarnessError
from harness.system.whole_file import write_whole

SOURCES_KEY = b"hpz.sources"
THREADS = 2 if (os.cpu_count() or 1) > 1 else 1


@dataclass
class Collected:
    """What a collection found; `runs` has the columns of analysis.collect.tables.RUN_COLUMNS."""

    folder: Path
    runs: pd.DataFrame
    sources: list[Source]
    problems: list[Problem] = field(default_factory=list)
    lines_read: int = 0  # by this collection; lines read earlier are not read again

    def steps(self, columns: Iterable[str] | None = None) -> pd.DataFrame:
        """The steps of all runs, a run's steps in order; `run_id` is categorical. `columns` limits what is read."""
        file = self.folder / "steps.parquet"
        names = list(STEP_COLUMNS if columns is None else columns)
        table = pq.read_table(file, columns=[name for name in names if name in pq.read_schema(file).names])
        for name in set(names) - set(table.column_names):  # collected before the column was recorded
            table = table.append_column(STEPS.field(name), pa.nulls(table.num_rows, STEPS.field(name).type))
        table = table.select(names)
        frame: pd.DataFrame = table.to_pandas(self_destruct=True)
        read = [source for source in self.sources if source.rows]
        codes = np.repeat(np.arange(len(read), dtype=np.int32), [source.rows for source in read])
        run_ids = pd.Categorical.from_codes(codes, pd.Index([source.run_id for source in read]))
        frame.insert(0, "run_id", pd.Series(run_ids))
        return frame

    def counts(self) -> dict[str, Any]:
        """Numbers of the collection, for `--json`."""
        return {
            "folder": str(self.folder),
            "runs": len(self.runs),
            "runs_done": int((self.runs["state"] == "done").sum()),
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
    only_simulated = (folder / "simulated" / "cells.csv").is_file() and not (
        folder / "steps.parquet"
    ).exists()
    if not runs.is_dir() and not only_simulated:
        return _tables_alone(folder)
    directories = sorted(path for path in runs.iterdir() if path.is_dir()) if runs.is_dir() else []
    known = _read_sources(folder) if _current(folder / "steps.parquet") else []
    problems: list[Problem] = []
    rows = {path.name: row for path in directories if (row := run_row(path, problems))}
    sources, lines_read = _update_steps(folder, list(rows), {source.run_id: source for source in known})
    for source in sources:
        problems += source.problems
        rows[source.run_id] |= {
            "steps_recorded": source.rows,
            "duplicate_steps": source.duplicates,
            "unread_lines": sum(
                p.line is not None and not p.reason.startswith("note:") for p in source.problems
            ),
        }
    table = pa.Table.from_pylist(list(rows.values()), schema=RUNS)
    write_whole(folder / "runs.parquet", lambda file: pq.write_table(table, file, compression="zstd"))
    return Collected(folder, table.to_pandas(), sources, problems, lines_read)


def _tables_alone(folder: Path) -> Collected:
    files = folder / "runs.parquet", folder / "steps.parquet"
    if not all(file.is_file() for file in files):
        raise HarnessError(
            f"{folder}: holds neither runs/ nor collected tables; run the study (hpz run) or simulate it (hpz simulate)"
        )
    runs = pq.read_table(files[0]).to_pandas()
    sources = _read_sources(folder) or _counted(files[1])
    return Collected(folder, runs, sources, [p for source in sources for p in source.problems])


def _counted(steps: Path) -> list[Source]:
    """Sources of a steps.parquet that another program wrote: a run's rows lie together."""
    run_ids = pq.read_table(steps, columns=["run_id"])["run_id"].to_pandas()
    counts = run_ids.groupby(run_ids.ne(run_ids.shift()).cumsum()).agg(["first", "size"])
    return [Source(run_id, rows=int(rows)) for run_id, rows in counts.itertuples(index=False)]


def _current(file: Path) -> bool:
    """Whether a steps.parquet has the columns of this version; if not, every line is read again."""
    try:
        return bool(pq.read_schema(file).names == STEPS.names)
    except (OSError, pa.ArrowInvalid):
        return False


def _update_steps(folder: Path, run_ids: list[str], known: Mapping[str, Source]) -> tuple[list[Source], int]:
    """Rewrite steps.parquet from its own row groups and the new lines; untouched when nothing changed."""
    file = folder / "steps.parquet"
    old = _Groups(file, known)
    sources: list[Source] = []
    lines_read = 0
    if file.exists() and [*known] == run_ids and all(unchanged(folder, known[run_id]) for run_id in run_ids):
        return [known[run_id] for run_id in run_ids], 0

    def write(target: Path) -> None:
        nonlocal lines_read
        with pq.ParquetWriter(
            target, STEPS, compression="zstd", compression_level=1, use_dictionary=["run_id"]
        ) as writer:
            for table, source, lines in _bounded_map(lambda run_id: _read_run(folder, run_id, old), run_ids):
                sources.append(source)
                lines_read += lines
                if table.num_rows:
                    writer.write_table(table, row_group_size=max(1, table.num_rows))
            writer.add_key_value_metadata({SOURCES_KEY: json.dumps([asdict(s) for s in sources])})

    write_whole(file, write)
    return sources, lines_read


class _Groups:
    """Row groups of the steps.parquet that is being replaced, by run."""

    def __init__(self, file: Path, known: Mapping[str, Source]) -> None:
        self.file = file
        self.sources = known
        with_rows = [run_id for run_id, source in self.sources.items() if source.rows]
        self.group = {run_id: index for index, run_id in enumerate(with_rows)}
        self._opened = threading.local()

    def read(self, run_id: str) -> pa.Table:
        if run_id not in self.group:
            return STEPS.empty_table()
        # One open file a thread: a ParquetFile must not be shared between them, and opening reads all metadata.
        if not hasattr(self._opened, "file"):
            self._opened.file = pq.ParquetFile(self.file)
        return self._opened.file.read_row_group(self.group[run_id], use_threads=False).cast(STEPS)


def _read_run(folder: Path, run_id: str, old: _Groups) -> tuple[pa.Table, Source, int]:
    """A run's steps, how far they were read, and the number of lines read now."""
    name = f"runs/{run_id}/steps.jsonl"
    source = old.sources.get(run_id, Source(run_id))
    if unchanged(folder, source):
        return old.read(run_id), source, 0
    try:
        stat = (folder / name).stat()
        source, data = new_bytes(folder / name, source)
    except OSError:
        return STEPS.empty_table(), Source(run_id), 0
    whole = data[: data.rfind(b"\n") + 1]
    table, problems = parse_lines(whole, name, source.lines + 1)
    before = old.read(run_id) if source.rows else STEPS.empty_table()
    table = pa.concat_tables([before, _with_run_id(table, run_id)])
    table, duplicates = last_of_each_step(table)
    # An unfinished last line is not counted as read: it is looked at again next time.
    kept = tuple(p for p in source.problems if p.line is None or p.line <= source.lines)
    count = whole.count(b"\n")
    if whole != data:
        problems.append(Problem(name, source.lines + count + 1, "half-written line"))
    offset = source.offset + len(whole)
    return (
        table,
        Source(
            run_id,
            offset=offset,
            lines=source.lines + count,
            rows=table.num_rows,
            size=stat.st_size,
            mtime_ns=stat.st_mtime_ns,
            tail=tail_hash(folder / name, offset),
            duplicates=source.duplicates + duplicates,
            problems=(*kept, *problems),
        ),
        count,
    )


def _with_run_id(table: pa.Table, run_id: str) -> pa.Table:
    return table.add_column(0, "run_id", pa.array([run_id] * table.num_rows, pa.string())).cast(STEPS)


def _read_sources(folder: Path) -> list[Source]:
    """How far the existing steps.parquet was read; empty where there is none of this version."""
    try:
        metadata = pq.read_metadata(folder / "steps.parquet").metadata or {}
        return [Source.from_json(content) for content in json.loads(metadata[SOURCES_KEY])]
    except (OSError, pa.ArrowInvalid, KeyError, TypeError, ValueError):
        return []


def _bounded_map(function: Any, items: list[str]) -> Iterator[Any]:
    """Like `map`, on a few threads, with only a few results waiting at a time."""
    remaining = iter(items)
    with ThreadPoolExecutor(THREADS) as pool:
        waiting = [pool.submit(function, item) for item in islice(remaining, 4 * THREADS)]
        while waiting:
            result = waiting.pop(0).result()
            waiting += [pool.submit(function, item) for item in islice(remaining, 1)]
            yield result
