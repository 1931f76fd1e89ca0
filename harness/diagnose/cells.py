"""The cells of a source's columns as numbers, and what a cell without a number means in its column."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from harness.words import counted

Row = Mapping[str, Any]

DENSE = (
    0.5  # of a column's rows hold a number: it is written in every row, and one that holds none is not finite
)


class Column:
    """One column of some rows, with what a cell without a number means there."""

    def __init__(self, rows: Sequence[Row], key: str | None, explicit: bool = False) -> None:
        self.values: list[float | None] = [_cell(row, key) for row in rows]
        """One a row (NaN, infinite: not finite), or None where it is absent or no number."""
        self.note = ""
        if key is None:
            return
        cells = [row.get(key, ABSENT) for row in rows]
        filled = [
            value is not None for value, cell in zip(self.values, cells, strict=True) if cell is not ABSENT
        ]
        last = max((index for index, one in enumerate(filled) if one), default=-1)
        # Up to its last number a column that is written in every row is mostly full; one written every tenth is not.
        dense = last >= 0 and sum(filled[: last + 1]) >= DENSE * (last + 1)
        never = explicit and last < 0 and None in cells
        empty = [i for i, cell in enumerate(cells) if self.values[i] is None and is_empty(cell)]
        if not (dense or never):
            return
        # An empty cell of a table by itself is a row of another kind; a null stands there because someone wrote it.
        empty = [i for i in empty if cells[i] is None or {i - 1, i + 1} & set(empty)]
        for index in empty:
            self.values[index] = float("nan")
        count = "counts" if len(empty) == 1 else "count"
        self.note = f"{counted(len(empty), 'empty value')} of {key!r} {count} as not finite" if empty else ""


ABSENT = object()


def _cell(row: Row, key: str | None) -> float | None:
    value = row.get(key) if key else None
    if value is None:
        # Our own files are strict JSON: null, with the value named beside.
        return float("nan") if key and f"{key}=" in str(row.get("nonfinite") or "") else None
    return _seconds(str(value)) if key == "utc" else number(value)


def number(value: Any) -> float | None:
    """A cell's number, with NaN and infinities as such; None where it is none. Of a list, the first."""
    if isinstance(value, list | tuple) and value:
        value = value[0]
    if isinstance(value, str) and "/" in value:  # ms-swift's 12/2046
        value = value.partition("/")[0]
    try:
        return None if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        return None


def is_empty(value: Any) -> bool:
    """Whether a cell holds nothing, or a word for that."""
    return value is None or (isinstance(value, str) and value.strip().lower() in ("", "null", "none"))


def _seconds(utc: str) -> float | None:
    try:
        return datetime.fromisoformat(utc).timestamp()
    except ValueError:
        return None
