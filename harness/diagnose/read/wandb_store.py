"""Rows from wandb's offline stores, `offline-run-*/run-*.wandb`: LevelDB's log format around wandb's own records."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from harness.diagnose.read.rows import Rows
from harness.diagnose.read.wire import fields, real, signed

MAGIC = b":W&B"
BLOCK, HEADER = 32768, 7
FULL, LAST = 1, 4
HISTORY, OUTPUT, OUTPUT_RAW = 2, 4, 13  # fields of a Record


def is_store(content: bytes) -> bool:
    return content.startswith(MAGIC)


def from_stores(contents: Sequence[bytes], name: str = "") -> tuple[Rows, str]:
    """The history of one run's stores, and what it printed; a part that was cut off is left out."""
    rows: list[dict[str, Any]] = []
    printed: list[str] = []
    for content in contents:
        for record in _records(content):
            try:
                for key, value in fields(record):
                    if key == HISTORY and isinstance(value, bytes):
                        rows.append(_history(value))
                    elif key in (OUTPUT, OUTPUT_RAW) and isinstance(value, bytes):
                        printed += [
                            line.decode(errors="replace")
                            for kind, line in fields(value)
                            if kind == 3 and isinstance(line, bytes)
                        ]
            except ValueError:
                break
    rows.sort(key=lambda row: row.get("_step", 0))
    return Rows(form="wandb offline store", rows=rows, name=name), "".join(printed)


def _history(record: bytes) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for key, value in fields(record):
        if key == 1 and isinstance(value, bytes):
            name, found = _item(value)
            row[name] = found
        elif key == 2 and isinstance(value, bytes):
            row["_step"] = next((number for kind, number in fields(value) if kind == 1), 0)
    return row


def _item(item: bytes) -> tuple[str, Any]:
    """Name and value of one logged value; newer releases write numbers as such, older ones as JSON."""
    names: list[str] = []
    found: Any = None
    for key, value in fields(item):
        if isinstance(value, bytes) and key in (1, 2):
            names.append(value.decode(errors="replace"))
        elif isinstance(value, bytes) and key in (8, 16):
            found = _json(value)
        elif key == 6 and isinstance(value, bytes):
            found = real(value)
        elif key in (4, 5) and isinstance(value, int):
            found = signed(value) if key == 5 else bool(value)
    return "/".join(names), found


def _json(value: bytes) -> Any:
    try:
        return json.loads(value)
    except ValueError:
        return None


def _records(content: bytes) -> Iterator[bytes]:
    """Records lie in parts in blocks of 32 KiB, behind a header of the file."""
    position, parts = HEADER, b""
    while position + HEADER <= len(content):
        if (left := BLOCK - position % BLOCK) < HEADER:
            position += left
            continue
        length = int.from_bytes(content[position + 4 : position + 6], "little")
        kind = content[position + 6]
        if position + HEADER + length > len(content):
            return
        parts += content[position + HEADER : position + HEADER + length]
        position += HEADER + length
        if kind in (FULL, LAST):
            yield parts
            parts = b""
