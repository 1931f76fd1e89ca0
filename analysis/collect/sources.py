"""How far each steps.jsonl was read, and what was found there that a reader of the report should know."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TAIL = 1024  # bytes before the read position that must be unchanged for reading to go on there


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

    @property
    def unread_lines(self) -> int:
        """Lines that could not be read."""
        return sum(p.line is not None and not p.reason.startswith("note:") for p in self.problems)


def unchanged(folder: Path, source: Source) -> bool:
    """Whether a run's steps.jsonl is as it was when it was read."""
    try:
        stat = os.stat(f"{folder}/runs/{source.run_id}/steps.jsonl")  # noqa: PTH116, for there may be 10,000
    except OSError:
        return source.size == 0
    return (stat.st_size, stat.st_mtime_ns) == (source.size, source.mtime_ns)


def new_bytes(file: Path, source: Source) -> tuple[Source, bytes, bytes]:
    """What follows the read position, and the bytes right before it.

    That is the whole file, with a fresh source, where it was rewritten or cut since. Raises OSError.
    """
    with file.open("rb") as stream:
        start = max(0, source.offset - TAIL)
        stream.seek(start)
        data = stream.read()
        before, after = data[: source.offset - start], data[source.offset - start :]
        if tail_hash(before) == source.tail or not source.offset:
            return source, after, before
        stream.seek(0)
        return Source(source.run_id), stream.read(), b""


def tail_hash(read: bytes) -> str:
    """Hash of the end of what was read."""
    return hashlib.sha256(read[-TAIL:]).hexdigest()
