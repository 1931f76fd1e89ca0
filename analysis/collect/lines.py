"""Lines of a steps.jsonl become rows of the steps table; a line that cannot be read is named and left out."""

from __future__ import annotations

import json
import re

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.json

from analysis.collect.sources import Problem
from analysis.collect.tables import FLOATS, SCHEMA_VERSION, STEP_COLUMNS

LINE_SCHEMA = pa.schema(
    [
        ("schema", pa.int32()),
        *((name, kind) for name, (kind, _) in STEP_COLUMNS.items()),
        ("nonfinite", pa.string()),
    ]
)

PARSE = pyarrow.json.ParseOptions(explicit_schema=LINE_SCHEMA, unexpected_field_behavior="ignore")


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


def last_of_each_step(table: pa.Table) -> tuple[pa.Table, int]:
    """Steps in order, each once; of several lines for a step the last counts. Returns also how many were dropped."""
    steps = table["step"].to_numpy()
    if np.all(np.diff(steps) > 0):
        return table, 0
    keep = np.flatnonzero(~pd.Series(steps).duplicated(keep="last").to_numpy())
    keep = keep[np.argsort(steps[keep], kind="stable")]
    return table.take(pa.array(keep)).combine_chunks(), len(steps) - len(keep)
