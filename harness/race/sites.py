"""Source places: who issued an op, as seen from the Python stack, without torch's and the device's own frames."""

from __future__ import annotations

import linecache
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import CodeType, FrameType
from typing import NamedTuple

DEPTH = 4
HARNESS = Path(__file__).resolve().parent.parent

# Plumbing that issues ops on behalf of someone further out.
HIDDEN = (
    f"{HARNESS / 'device'}/",
    f"{HARNESS / 'race'}/",
    "/site-packages/torch/",
    "/deepspeed/comm/",
    "/deepspeed/accelerator/",
    "/deepspeed/utils/nvtx",
    "/contextlib.py",
    "/functools.py",
    "/runpy.py",
    "<frozen ",
)


class Frame(NamedTuple):
    """One Python frame: the file as on disk, its line and the function."""

    file: str
    line: int
    function: str

    @property
    def short(self) -> str:
        """The file without the folders that differ from machine to machine."""
        return short_file(self.file)

    @property
    def code(self) -> str:
        """The line of source, stripped; empty where the file is gone."""
        return linecache.getline(self.file, self.line).strip()

    def __str__(self) -> str:
        return f"{self.short}:{self.line} {self.function}"


# By id, since a code object hashes its whole content; the object itself is kept, so that its id stays its own.
_hidden: dict[int, tuple[CodeType, bool]] = {}
_frames: dict[tuple[int, int], Frame | None] = {}


def is_hidden(code: CodeType) -> bool:
    """Whether a function is plumbing; remembered for each."""
    known = _hidden.get(id(code))
    if known is None:
        known = _hidden[id(code)] = code, any(part in code.co_filename for part in HIDDEN)
    return known[1]


def visible_frame(code: CodeType, line: int) -> Frame | None:
    """The frame at a line of a function; None for plumbing. The same place is always the same object."""
    key = (id(code), line)
    if key not in _frames:
        _frames[key] = None if is_hidden(code) else Frame(code.co_filename, line, code.co_name)
    return _frames[key]


def visible(stack: Iterable[tuple[CodeType, int]], depth: int = DEPTH) -> tuple[Frame, ...]:
    """The innermost `depth` frames of a stack that are not plumbing, innermost first."""
    found: list[Frame] = []
    for code, line in stack:
        frame = visible_frame(code, line)
        if frame is not None:
            found.append(frame)
            if len(found) == depth:
                break
    return tuple(found)


def capture(depth: int = DEPTH) -> tuple[Frame, ...]:
    """The same for the stack of the caller."""
    return visible(_stack(sys._getframe(1)), depth)


def _stack(frame: FrameType | None) -> Iterator[tuple[CodeType, int]]:
    while frame is not None:
        yield frame.f_code, frame.f_lineno
        frame = frame.f_back


def short_file(file: str) -> str:
    """`…/site-packages/deepspeed/x.py` and `…/overlay/deepspeed/x.py` both become `deepspeed/x.py`."""
    for mark in ("/site-packages/", f"{HARNESS.parent}/"):
        if mark in file:
            return file.rpartition(mark)[2]
    if "/deepspeed/" in file:
        return "deepspeed/" + file.rpartition("/deepspeed/")[2]
    return file
