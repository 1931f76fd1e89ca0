"""The runs table, one row a run; only run directories whose files changed since are read again."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from analysis.collect.sources import Problem, Source
from analysis.collect.tables import RUN_COLUMNS, RUNS
from harness.system.whole_file import write_whole

NAME = "runs.parquet"
STAMPS_KEY = b"hpz.stamps"
FILES = ("run.json", "status.json", "races.json")
COUNTED = ("steps_recorded", "duplicate_steps", "unread_lines")  # columns that follow from the steps
Stamp = list[int]  # inode, size and time of each file; in the table followed by the values of COUNTED


@dataclass(frozen=True)
class Seen:
    """What the run directories hold: a stamp for each run, and a row for those that runs.parquet does not know so."""

    known: dict[str, Stamp]  # of runs.parquet
    stamps: dict[str, Stamp] = field(default_factory=dict)
    rows: dict[str, dict[str, Any]] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)


def look_at_runs(folder: Path, names: Iterable[str]) -> Seen:
    """Look at the files of these run directories and read what is new. A run that cannot be read is left out."""
    seen = Seen(_known(folder / NAME))
    for name in names:
        # Looked at before it is read: what changes in between is read again next time.
        stamp = _stamp(f"{folder}/runs/{name}")
        if seen.known.get(name, [])[: len(stamp)] != stamp:
            if (row := _run_row(folder / "runs" / name, seen.problems)) is None:
                continue
            seen.rows[name] = row
        seen.stamps[name] = stamp
    return seen


def update_runs(folder: Path, seen: Seen, sources: Iterable[Source]) -> None:
    """Bring runs.parquet up to date; untouched where nothing changed. Raises HarnessError as `write_whole` does."""
    counts = {s.run_id: [s.rows, s.duplicates, s.unread_lines] for s in sources}
    stamps = {name: stamp + counts[name] for name, stamp in seen.stamps.items()}
    if stamps == seen.known and (folder / NAME).exists():
        return
    table = pa.Table.from_pylist(list(seen.rows.values()), schema=RUNS)
    if len(seen.rows) < len(stamps):
        old = pq.read_table(folder / NAME)
        kept = [name in stamps and name not in seen.rows for name in old["run_id"].to_pylist()]
        table = pa.concat_tables([old.filter(pa.array(kept)).cast(RUNS), table]).sort_by("run_id")
    run_ids = table["run_id"].to_pylist()
    columns = np.array([counts[name] for name in run_ids], np.int32).reshape(-1, len(COUNTED))
    for name, values in zip(COUNTED, columns.T, strict=True):
        table = table.set_column(table.schema.get_field_index(name), RUNS.field(name), pa.array(values))

    def write(target: Path) -> None:
        with pq.ParquetWriter(target, RUNS, compression="zstd") as writer:
            writer.write_table(table)
            writer.add_key_value_metadata({STAMPS_KEY: json.dumps({name: stamps[name] for name in run_ids})})

    write_whole(folder / NAME, write)


def _known(file: Path) -> dict[str, Stamp]:
    """The stamps of the runs in runs.parquet; empty where there is none of this version."""
    try:
        with pq.ParquetFile(file) as table:
            if table.schema_arrow.names != RUNS.names:
                return {}
            stamps: dict[str, Stamp] = json.loads((table.metadata.metadata or {})[STAMPS_KEY])
            return stamps
    except (OSError, pa.ArrowInvalid, KeyError, ValueError):
        return {}


def _stamp(directory: str) -> Stamp:
    """What tells that a run's files changed; zeros where one is missing."""
    stamp: Stamp = []
    for name in FILES:
        try:
            stat = os.stat(f"{directory}/{name}")  # noqa: PTH116, for there may be 10,000 runs
        except OSError:
            stamp += (0, 0, 0)
        else:
            stamp += (stat.st_ino, stat.st_size, stat.st_mtime_ns)
    return stamp


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
