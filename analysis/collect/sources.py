"""How far each steps.jsonl was read, and what was found there that a reader of the report should know."""

from __future__ import annotations

import hashlib
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


def unchanged(folder: Path, source: Source) -> bool:
    try:
        stat = (folder / "runs" / source.run_id / "steps.jsonl").stat()
    except OSError:
        return source.size == 0
    return (stat.st_size, stat.st_mtime_ns) == (source.size, source.mtime_ns)


def new_bytes(file: Path, source: Source) -> tuple[Source, bytes]:
    """What follows the read position; the whole file, with a fresh source, where it was rewritten since."""
    if source.offset and tail_hash(file, source.offset) != source.tail:
        source = Source(source.run_id)
    with file.open("rb") as stream:
        stream.seek(source.offset)
        return source, stream.read()


def tail_hash(file: Path, offset: int) -> str:
    with file.open("rb") as stream:
        stream.seek(max(0, offset - TAIL))
        return hashlib.sha256(stream.read(min(TAIL, offset))).hexdigest()
