"""Run directories become two tables, runs.parquet and steps.parquet; only lines that are new are read again.

steps.parquet holds one row group a run, and in its metadata how far each steps.jsonl was read. A study may still be
running: a line that is not whole yet, or cannot be read, is counted and named, and the rest is kept.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
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
import pyarrow.json
import pyarrow.parquet as pq

from analysis.collect.tables import FLOATS, RUN_COLUMNS, RUNS, SCHEMA_VERSION, STEP_COLUMNS, STEPS
from harness.system.errors import HarnessError
from harness.system.whole_file import write_whole

SOURCES_KEY = b"hpz.sources"
TAIL = 1024  # bytes before the read position that must be unchanged for reading to go on there
THREADS = 2 if (os.cpu_count() or 1) > 1 else 1
LINE_SCHEMA = pa.schema(
    [
        ("schema", pa.int32()),
        *((name, kind) for name, (kind, _) in STEP_COLUMNS.items()),
        ("nonfinite", pa.string()),
    ]
)
PARSE = pyarrow.json.ParseOptions(explicit_schema=LINE_SCHEMA, unexpected_field_behavior="ignore")


@dataclass(frozen=True)
class Problem:
    """Something in a file that a reader of the report should know; `line` counts from 1."""

    file: str  # relative to the results folder
    line: int | None
    reason: str

    def __str__(self) -> str:
        return f"{self.file}{'' if self.line is None else f':{self.line}'}: {self.reason}"


@dataclass(frozen=True)
class Source:
    """How far one steps.jsonl was read, and what was found."""

    run_id: str
    offset: int = 0  # bytes read, up to the last whole line
    lines: int = 0
    rows: int = 0
    size: int = 0  # of the file when it was read
    mtime_ns: int = 0
    tail: str = ""  # hash of the last bytes before `offset`
    duplicates: int = 0
    problems: tuple[Problem, ...] = ()

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Source:
        problems = tuple(Problem(**problem) for problem in content["problems"])
        return cls(**{**content, "problems": problems})


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
    rows = {path.name: row for path in directories if (row := _run_row(path, problems))}
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


def _run_row(path: Path, problems: list[Problem]) -> dict[str, Any] | None:
    """One row of the runs table; None (and a problem) where run.json cannot be read."""
    name = f"runs/{path.name}/run.json"
    try:
        record = json.loads((path / "run.json").read_text())
        run = record["run"]
        shape, training = run["shape"], run["training"]
        status = _read_json(path / "status.json")
        final = status.get("final") or {}
        row: dict[str, Any] = dict.fromkeys(RUN_COLUMNS)
        row |= {key: run[key] for key in ("study", "model", "variant", "release", "seed", "device")}
        row |= {key: run[key] for key in ("policy", "poison")} | dict(shape)
        row |= {
            "run_id": path.name,
            "evidence": record["evidence"],
            "steps_planned": training["steps"],
            "gradient_accumulation": training["gradient_accumulation"],
            "activation_checkpointing": training["activation_checkpointing"],
            "state": status.get("state", "pending"),
            **{key: status.get(key) for key in ("reason", "attempts", "started_utc", "ended_utc")},
            **{
                key: final.get(key)
                for key in ("skipped_steps", "accuracy", "shards_sha256", "batches_sha256")
            },
            "record": json.dumps(record, sort_keys=True),
            "status": json.dumps(status, sort_keys=True),
            "races": races.read_text() if (races := path / "races.json").is_file() else None,
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        problems.append(Problem(name, None, f"not a run record ({error!r}); the run is left out"))
        return None
    return row


def _read_json(file: Path) -> dict[str, Any]:
    """A JSON object; empty where the file is missing or half-written."""
    try:
        content = json.loads(file.read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


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
    if file.exists() and [*known] == run_ids and all(_unchanged(folder, known[run_id]) for run_id in run_ids):
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
    if _unchanged(folder, source):
        return old.read(run_id), source, 0
    try:
        stat = (folder / name).stat()
        source, data = _new_bytes(folder / name, source)
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
            tail=_tail_hash(folder / name, offset),
            duplicates=source.duplicates + duplicates,
            problems=(*kept, *problems),
        ),
        count,
    )


def _unchanged(folder: Path, source: Source) -> bool:
    try:
        stat = (folder / "runs" / source.run_id / "steps.jsonl").stat()
    except OSError:
        return source.size == 0
    return (stat.st_size, stat.st_mtime_ns) == (source.size, source.mtime_ns)


def _new_bytes(file: Path, source: Source) -> tuple[Source, bytes]:
    """What follows the read position; the whole file, with a fresh source, where it was rewritten since."""
    if source.offset and _tail_hash(file, source.offset) != source.tail:
        source = Source(source.run_id)
    with file.open("rb") as stream:
        stream.seek(source.offset)
        return source, stream.read()


def _tail_hash(file: Path, offset: int) -> str:
    with file.open("rb") as stream:
        stream.seek(max(0, offset - TAIL))
        return hashlib.sha256(stream.read(min(TAIL, offset))).hexdigest()


def parse_lines(data: bytes, file: str, first_line: int = 1) -> tuple[pa.Table, list[Problem]]:
    """Whole lines of a steps.jsonl as a table of STEP_COLUMNS, and the lines that could not be read, by number."""
    problems: list[Problem] = []
    table = _parse(data)
    if table is None:
        good = []
        for number, line in enumerate(data.splitlines(), first_line):
            if fault := _fault_of(line):
                problems.append(Problem(file, number, fault))
            else:
                good.append(line + b"\n")
        table = _parse(b"".join(good))
        assert table is not None, f"{file}: lines that can be read one by one cannot be read together"
    problems += _clock_jumps(table, file)
    return _restore_nonfinite(table).select(list(STEP_COLUMNS)), problems


def _parse(data: bytes) -> pa.Table | None:
    """Fast path over all lines at once; None unless every line is a step record of this schema version."""
    if not data:
        return LINE_SCHEMA.empty_table()
    options = pyarrow.json.ReadOptions(use_threads=False, block_size=min(len(data) + 1, 1 << 24))
    try:
        table = pyarrow.json.read_json(pa.BufferReader(data), options, PARSE)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return None
    schema, step = table["schema"], table["step"]
    whole = table.num_rows == data.count(b"\n") and not schema.null_count and not step.null_count
    return table if whole and bool(np.all(schema.to_numpy() == SCHEMA_VERSION)) else None


def _fault_of(line: bytes) -> str | None:
    """Why one line is not a step record; None if it is one."""
    try:
        row = json.loads(line)
    except ValueError:
        return "half-written or not JSON"
    if not isinstance(row, dict) or "step" not in row:
        return "not a step record"
    if row.get("schema") != SCHEMA_VERSION:
        return f"schema {row.get('schema')!r}; this version reads {SCHEMA_VERSION}"
    return None if _parse(line + b"\n") is not None else "holds a value of the wrong type"


def _restore_nonfinite(table: pa.Table) -> pa.Table:
    """Put NaN and infinities, which strict JSON lacks, back from the text of `nonfinite`."""
    texts = table["nonfinite"]
    values = {name: table[name].to_numpy().copy() for name in FLOATS if table[name].null_count}
    if texts.null_count < table.num_rows:
        codes, names = pd.factorize(texts.to_pandas())
        for code, text in enumerate(names):
            for name, word in re.findall(r"(\w+)=(-?\w+)", text):
                if name in values:
                    values[name][codes == code] = float(word)
    for name, column in values.items():
        table = table.set_column(table.schema.get_field_index(name), name, pa.array(column, pa.float64()))
    return table


def _clock_jumps(table: pa.Table, file: str) -> list[Problem]:
    times = table["utc"].to_numpy()
    back = np.flatnonzero(np.diff(times) < np.timedelta64(0))
    if not back.size:
        return []
    step = table["step"][int(back[0]) + 1].as_py()
    return [Problem(file, None, f"note: the clock went back {back.size} times, first at step {step}")]


def _with_run_id(table: pa.Table, run_id: str) -> pa.Table:
    return table.add_column(0, "run_id", pa.array([run_id] * table.num_rows, pa.string())).cast(STEPS)


def last_of_each_step(table: pa.Table) -> tuple[pa.Table, int]:
    """Steps in order, each once; of several lines for a step the last counts. Returns also how many were dropped."""
    steps = table["step"].to_numpy()
    if np.all(np.diff(steps) > 0):
        return table, 0
    keep = np.flatnonzero(~pd.Series(steps).duplicated(keep="last").to_numpy())
    keep = keep[np.argsort(steps[keep], kind="stable")]
    return table.take(pa.array(keep)).combine_chunks(), len(steps) - len(keep)


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
