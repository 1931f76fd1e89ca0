"""Several runs in one source, taken apart: a column each, a name in every row, or steps that begin anew."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from harness.diagnose.cells import number
from harness.diagnose.names import BOUNDS, NAMES, is_curve_name, plain, step_column
from harness.diagnose.read.rows import Row, Rows

RUN = ("run", "run_id", "run_name", "run id", "run name", "experiment", "name")
ENOUGH = 2  # rows before steps begin anew, else it is a restart of one that had hardly begun


def runs_in(rows: Rows) -> list[Rows]:
    """The runs of a source, in its order; usually one."""
    return [one for part in _by_column(rows) for named in _by_name(part) for one in _by_step(named)]


def _by_column(rows: Rows) -> list[Rows]:
    """wandb's charts have a column a run, `run - metric`."""
    columns = dict.fromkeys(key for row in rows.rows for key in row if isinstance(key, str))
    of_run: dict[str, list[str]] = {}
    for key in columns:
        run, dash, _ = key.rpartition(" - ")
        if dash and not key.lower().endswith(BOUNDS) and is_curve_name(key):
            of_run.setdefault(run, []).append(key)
    if len(of_run) < 2:
        return [rows]
    shared = [key for key in columns if " - " not in key]
    return [
        replace(rows, name=run, rows=list(_only(rows.rows, [*shared, *keys], keys)))
        for run, keys in of_run.items()
    ]


def _only(rows: Iterable[Row], keep: Sequence[str], filled: Sequence[str]) -> Iterator[Row]:
    """Rows with some columns, where any of the run's own is filled."""
    for row in rows:
        if any(row.get(key) not in (None, "") for key in filled):
            yield {key: row[key] for key in keep if key in row}


def _by_name(rows: Rows) -> list[Rows]:
    columns = {plain(key): key for row in rows.rows for key in row if isinstance(key, str)}
    key = next((columns[name] for name in RUN if name in columns), None)
    groups: dict[str, list[Row]] = {}
    for row in rows.rows:
        groups.setdefault(str(row.get(key, "")) if key else "", []).append(row)
    if len(groups) < 2 or any(len(group) < ENOUGH for group in groups.values()):
        return [rows]
    return [replace(rows, name=name, rows=group) for name, group in groups.items()]


def _by_step(rows: Rows) -> list[Rows]:
    """Steps that fall back to the first one begin another run; those of a checkpoint go on with the same."""
    columns = dict.fromkeys(key for row in rows.rows for key in row if isinstance(key, str))
    logged = [
        row for row in rows.rows if any(plain(key) in (*NAMES["loss"], *NAMES["grad_norm"]) for key in row)
    ]
    step = step_column(columns, logged)
    clock = step or _epoch_column(columns)
    if clock is None:
        return [rows]
    counted = {id(row) for row in (logged if step else rows.rows)}
    parts: list[list[Row]] = [[]]
    first, last, seen = None, None, 0
    for row in rows.rows:
        at = number(row.get(clock)) if id(row) in counted else None
        if at is not None:
            if first is not None and last is not None and at < last and at <= first and seen >= ENOUGH:
                parts.append([])
                first, seen = None, 0
            first, last, seen = at if first is None else first, at, seen + 1
        parts[-1].append(row)
    if len(parts) == 1:
        return [rows]
    prefix = f"{rows.name}, " if rows.name else ""
    return [replace(rows, name=f"{prefix}run {index}", rows=part) for index, part in enumerate(parts, 1)]


def _epoch_column(columns: Iterable[str]) -> str | None:
    """A column of fractions of an epoch, which orders rows without steps."""
    return next((key for key in columns if plain(key) in ("epoch", "train/epoch")), None)
