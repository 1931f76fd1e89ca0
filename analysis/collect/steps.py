"""The steps table: a folder of parts, each with the steps of some runs and how far their steps.jsonl were read.

A run's id alone says which part it lies in, so new lines rewrite few parts. A part is replaced in one move and says
nothing of others: a collection that was killed leaves each part true, and the next one goes on from there.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import partial
from itertools import chain
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from analysis.collect.lines import last_of_each_step, parse_lines
from analysis.collect.sources import Problem, Source, new_bytes, tail_hash, unchanged
from analysis.collect.tables import FLOATS, STEPS
from harness.system.errors import HarnessError
from harness.system.whole_file import write_whole

NAME = "steps.parquet"
PARTS = 64  # at most; the more there are, the less is written again for a few new lines
SOURCES_KEY = b"hpz.sources"
FORMAT = {"compression": "zstd", "compression_level": 1, "use_dictionary": ["run_id"]}
THREADS = 2 if (os.cpu_count() or 1) > 1 else 1
NO_STEPS = STEPS.empty_table()


def update_steps(folder: Path, run_ids: Iterable[str]) -> tuple[list[Source], int]:
    """Bring the parts up to date; a part without news is left alone.

    Returns how far each run was read, by run id, and the number of lines read now. Raises HarnessError where the table
    cannot be written.
    """
    table = folder / NAME
    try:
        if table.is_file():  # as another program or an older version wrote it
            table.unlink()
        table.mkdir(exist_ok=True)
    except OSError as error:
        raise HarnessError(
            f"{table}: cannot be written ({error.strerror}); free space or give another place"
        ) from error
    members: dict[int, list[str]] = {0: []}  # one part at least, or there would be no table
    for run_id in run_ids:
        members.setdefault(zlib.crc32(run_id.encode()) % PARTS, []).append(run_id)
    files = [table / f"part-{number:02}.parquet" for number in members]
    with ThreadPoolExecutor(THREADS) as pool:
        updated = list(pool.map(partial(_update_part, folder), files, members.values()))
    for file in {*part_files(table)} - {*files}:  # its runs are gone
        file.unlink()
    sources = sorted(chain.from_iterable(found for found, _ in updated), key=lambda source: source.run_id)
    return sources, sum(lines for _, lines in updated)


def part_files(table: Path) -> list[Path]:
    """The files of a steps table; reference results, and tables that other programs wrote, are one file."""
    return sorted(table.glob("part-*.parquet")) if table.is_dir() else [table]


def _update_part(folder: Path, file: Path, run_ids: list[str]) -> tuple[list[Source], int]:
    """How far the runs of one part were read, and the number of lines read now."""
    known = {source.run_id: source for source in _known(file)}
    if file.exists() and [*known] == run_ids and all(unchanged(folder, known[one]) for one in run_ids):
        return [*known.values()], 0
    old = dict(_read_part(file, STEPS.names)) if known else {}
    read = [_read_run(folder, known.get(run_id, Source(run_id)), old) for run_id in run_ids]
    sources = [source for _, source, _ in read]
    _write(file, [table for table, _, _ in read], sources)
    return sources, sum(lines for *_, lines in read)


def _write(file: Path, tables: Iterable[pa.Table], sources: Iterable[Source]) -> None:
    """Write one file of the table: the rows of some runs, one after the other."""
    table = pa.concat_tables([NO_STEPS, *tables])

    def write(target: Path) -> None:
        with pq.ParquetWriter(target, STEPS, use_byte_stream_split=[*FLOATS], **FORMAT) as writer:
            writer.write_table(table)
            writer.add_key_value_metadata({SOURCES_KEY: json.dumps([asdict(one) for one in sources])})

    write_whole(file, write)


def join_parts(table: Path, file: Path) -> None:
    """Write a steps table as one file, by run id. Raises HarnessError as `write_whole` does."""
    rows, sources = dict(read_steps(table, STEPS.names)), sources_of(table)
    _write(file, [rows[source.run_id] for source in sources if source.rows], sources)


def _read_run(folder: Path, source: Source, old: Mapping[str, pa.Table]) -> tuple[pa.Table, Source, int]:
    """A run's steps, how far they were read, and the number of lines read now."""
    run_id, name = source.run_id, f"runs/{source.run_id}/steps.jsonl"
    if unchanged(folder, source):
        return old.get(run_id, NO_STEPS), source, 0
    try:
        stat = (folder / name).stat()
        source, data, before = new_bytes(folder / name, source)
    except OSError:
        return NO_STEPS, Source(run_id), 0
    whole = data[: data.rfind(b"\n") + 1]
    rows, problems = parse_lines(whole, name, source.lines + 1)
    rows = rows.add_column(0, STEPS.field("run_id"), pa.repeat(run_id, rows.num_rows)).cast(STEPS)
    kept = old.get(run_id, NO_STEPS) if source.rows else NO_STEPS
    table, duplicates = last_of_each_step(pa.concat_tables([kept, rows]))
    count = rows.num_rows + sum(problem.line is not None for problem in problems)
    if whole != data:
        problems.append(Problem(name, source.lines + count + 1, "half-written line"))
    # An unfinished last line is not counted as read: it is looked at again next time.
    earlier = (p for p in source.problems if p.line is None or p.line <= source.lines)
    now = Source(
        run_id,
        offset=source.offset + len(whole),
        lines=source.lines + count,
        rows=table.num_rows,
        size=stat.st_size,
        mtime_ns=stat.st_mtime_ns,
        tail=tail_hash(before + whole),
        duplicates=source.duplicates + duplicates,
        problems=(*earlier, *problems),
    )
    return table, now, count


def _known(file: Path) -> list[Source]:
    """How far the runs of a part were read; empty where it is missing or has other columns than this version."""
    try:
        with pq.ParquetFile(file) as part:
            return _sources(part) if part.schema_arrow.names == STEPS.names else []
    except (OSError, pa.ArrowInvalid):
        return []


def _sources(part: pq.ParquetFile) -> list[Source]:
    """The sources that a part names; empty where it was written by another program."""
    try:
        return [Source.from_json(one) for one in json.loads((part.metadata.metadata or {})[SOURCES_KEY])]
    except (KeyError, TypeError, ValueError):
        return []


def sources_of(table: Path) -> list[Source]:
    """What a steps table that stands alone says of its sources, by run id."""
    found: list[Source] = []
    for file in part_files(table):
        with pq.ParquetFile(file) as part:
            found += _sources(part) or _counted(part)
    return sorted(found, key=lambda source: source.run_id)


def _counted(part: pq.ParquetFile) -> list[Source]:
    """Sources of a table that another program wrote: a run's rows lie together."""
    run_ids = part.read(["run_id"])["run_id"].to_pandas()
    counts = run_ids.groupby(run_ids.ne(run_ids.shift()).cumsum()).agg(["first", "size"])
    return [Source(run_id, rows=int(rows)) for run_id, rows in counts.itertuples(index=False)]


def read_steps(table: Path, columns: Iterable[str]) -> Iterator[tuple[str, pa.Table]]:
    """Each run that has steps with the columns asked for, its steps in order; runs part by part."""
    for file in part_files(table):
        yield from _read_part(file, [*columns])


def _read_part(file: Path, columns: list[str]) -> Iterator[tuple[str, pa.Table]]:
    with pq.ParquetFile(file) as part:  # rows and sources of one file, though another process replace it
        sources = _sources(part) or _counted(part)
        table = part.read([name for name in columns if name in part.schema_arrow.names], use_threads=False)
    for name in set(columns) - set(table.column_names):  # collected before the column was recorded
        table = table.append_column(STEPS.field(name), pa.nulls(table.num_rows, STEPS.field(name).type))
    table, start = table.select(columns), 0
    for source in sources:
        if source.rows:
            yield source.run_id, table.slice(start, source.rows)
        start += source.rows
