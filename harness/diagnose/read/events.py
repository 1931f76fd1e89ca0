"""Rows from TensorBoard's event files: records of one Event message each, scalars by tag and step."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from harness.diagnose.read.rows import Rows
from harness.diagnose.read.wire import fields, real, signed

PATTERN = "*tfevents*"
HEADER, FOOTER = 12, 4  # length and its checksum before a record, the record's checksum behind it
WIDTHS = {1: 4, 2: 8}  # bytes of a number, by TensorFlow's kinds float and double
FIRST_FIELDS = (b"\x09", b"\x1a", b"\x10")  # an Event begins with its wall time, in every writer


def is_events(content: bytes) -> bool:
    """Whether bytes are an event file's: a first record whose length fits, and which begins as an Event does."""
    if len(content) < HEADER + FOOTER + 1:
        return False
    length = struct.unpack("<Q", content[:8])[0]
    return 0 < length <= len(content) - HEADER - FOOTER and content[HEADER : HEADER + 1] in FIRST_FIELDS


def from_events(contents: Sequence[bytes], name: str = "") -> Rows:
    """The scalars of one run's event files, a row a step; a record that was cut off ends its file."""
    by_step: dict[int, dict[str, Any]] = {}
    for content in contents:
        for step, time, values in _events(content):
            by_step.setdefault(step, {"step": step, "wall_time": time}).update(values)
    rows = [by_step[step] for step in sorted(by_step)]
    return Rows(form="TensorBoard events", rows=rows, name=name)


def folders_of_events(folder: Path) -> dict[Path, list[Path]]:
    """Folder → its event files, below `folder`, in the order in which they were written."""
    found: dict[Path, list[Path]] = {}
    for file in sorted(folder.rglob(PATTERN)):
        found.setdefault(file.parent, []).append(file)
    return found


def _events(content: bytes) -> Iterator[tuple[int, float, dict[str, float]]]:
    position = 0
    while position + HEADER <= len(content):
        length = struct.unpack("<Q", content[position : position + 8])[0]
        position += HEADER
        message = content[position : position + length]
        position += length + FOOTER
        try:
            event = dict(fields(message))
            values = _scalars(event.get(5))
        except (ValueError, struct.error):
            return
        if values:
            step, time = event.get(2, 0), event.get(1, b"")
            yield (
                signed(step) if isinstance(step, int) else 0,
                real(time) if isinstance(time, bytes) and time else 0.0,
                values,
            )


def _scalars(summary: int | bytes | None) -> dict[str, float]:
    """Tag → number, of a Summary: a simple value, or a tensor of one number."""
    found: dict[str, float] = {}
    for key, value in fields(summary) if isinstance(summary, bytes) else ():
        if key == 1 and isinstance(value, bytes):
            parts = dict(fields(value))
            tag, simple, tensor = parts.get(1), parts.get(2), parts.get(8)
            number = real(simple) if isinstance(simple, bytes) else _tensor(tensor)
            if isinstance(tag, bytes) and number is not None:
                found[tag.decode(errors="replace")] = number
    return found


def _tensor(tensor: int | bytes | None) -> float | None:
    """The number in a TensorProto of one float or double; None for anything else."""
    if not isinstance(tensor, bytes):
        return None
    parts = dict(fields(tensor))
    kind = parts.get(1)
    width = WIDTHS.get(kind) if isinstance(kind, int) else None
    value = parts.get(4) or parts.get(5) or parts.get(6)
    return real(value) if width is not None and isinstance(value, bytes) and len(value) == width else None
