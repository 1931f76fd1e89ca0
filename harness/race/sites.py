"""Source places: who issued an op, as seen from the Python stack, without torch's and the device's own frames."""

from __future__ import annotations

import linecache
import sys
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from types import CodeType, FrameType
from typing import NamedTuple

DEPTH = 4
HARNESS = Path(__file__).resolve().parent.parent

# Plumbing that issues ops on behalf of someone further out.
HIDDEN = (
    f"{HARNESS / 'device'}/",
    f"{HARNESS / 'race'}/",
    f"{HARNESS / 'suite'}/",
    f"{HARNESS / 'system'}/",
    "/site-packages/torch/",
    "/deepspeed/comm/",
    "/deepspeed/accelerator/",
    "/deepspeed/utils/nvtx",
    "/contextlib.py",
    "/functools.py",
    "/runpy.py",
    "/multiprocessing/",
    "/_pytest/",
    "/pluggy/",
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


class Places:
    """The frames that were seen in one function, by line and by instruction: the same place is the same object."""

    __slots__ = ("code", "hidden", "of_instruction", "of_line")

    def __init__(self, code: CodeType) -> None:
        self.code = code
        self.hidden = any(part in code.co_filename for part in HIDDEN)
        self.of_line: dict[int, Frame] = {}
        self.of_instruction: dict[int, Frame] = {}  # which a frame knows at once; its line takes a search

    def at_line(self, line: int) -> Frame:
        found = self.of_line.get(line)
        if found is None:
            found = self.of_line[line] = Frame(self.code.co_filename, line, self.code.co_name)
        return found

    def at(self, frame: FrameType) -> Frame:
        found = self.of_instruction.get(frame.f_lasti)
        if found is None:
            found = self.of_instruction[frame.f_lasti] = self.at_line(frame.f_lineno)
        return found


# By id, since a code object hashes its whole content; the object itself is kept, so that its id stays its own.
_places: dict[int, Places] = {}


def places_of(code: CodeType) -> Places:
    """What is remembered of a function."""
    known = _places.get(id(code))
    if known is None:
        known = _places[id(code)] = Places(code)
    return known


def is_hidden(code: CodeType) -> bool:
    """Whether a function is plumbing."""
    return places_of(code).hidden


def visible(stack: Iterable[tuple[CodeType, int]], depth: int = DEPTH) -> tuple[Frame, ...]:
    """The innermost `depth` frames of a stack that are not plumbing, innermost first."""
    found: list[Frame] = []
    for code, line in stack:
        places = places_of(code)
        if not places.hidden:
            found.append(places.at_line(line))
            if len(found) == depth:
                break
    return tuple(found)


def capture(depth: int = DEPTH) -> tuple[Frame, ...]:
    """The same for the stack of the caller. Called for every op, so it looks at no more frames than it must."""
    found: list[Frame] = []
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        code = frame.f_code
        places = _places.get(id(code)) or places_of(code)
        if not places.hidden:
            found.append(places.at(frame))
            if len(found) == depth:
                break
        frame = frame.f_back
    return tuple(found)


def short_file(file: str) -> str:
    """The file without the folders that differ from machine to machine: those of packages, and where the user is.

    `…/site-packages/deepspeed/x.py` and `…/overlay/deepspeed/x.py` both become `deepspeed/x.py`.
    """
    try:
        return _short(file, str(Path.cwd()))
    except FileNotFoundError:  # somebody removed it
        return _short(file, "/")


@cache
def _short(file: str, here: str) -> str:
    for mark in ("/site-packages/", f"{HARNESS.parent}/"):
        if mark in file:
            return file.rpartition(mark)[2]
    if "/deepspeed/" in file:
        return "deepspeed/" + file.rpartition("/deepspeed/")[2]
    return file.removeprefix(f"{here}/") if here != "/" else file
