"""Source places: who issued an op, as seen from the Python stack, without torch's and the device's own frames."""

from __future__ import annotations

import linecache
import sys
from pathlib import Path
from types import CodeType
from typing import NamedTuple

DEPTH = 5
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


_hidden: dict[CodeType, bool] = {}


def is_hidden(code: CodeType) -> bool:
    """Whether a function is plumbing; remembered for each."""
    hidden = _hidden.get(code)
    if hidden is None:
        hidden = _hidden[code] = any(part in code.co_filename for part in HIDDEN)
    return hidden


def capture(depth: int = DEPTH) -> tuple[Frame, ...]:
    """The innermost `depth` frames that are not plumbing, innermost first."""
    found: list[Frame] = []
    frame = sys._getframe(1)
    while frame is not None and len(found) < depth:
        if not is_hidden(frame.f_code):
            found.append(Frame(frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name))
        frame = frame.f_back  # type: ignore[assignment]
    return tuple(found)


def short_file(file: str) -> str:
    """`…/site-packages/deepspeed/x.py` and `…/overlay/deepspeed/x.py` both become `deepspeed/x.py`."""
    for mark in ("/site-packages/", f"{HARNESS.parent}/"):
        if mark in file:
            return file.rpartition(mark)[2]
    if "/deepspeed/" in file:
        return "deepspeed/" + file.rpartition("/deepspeed/")[2]
    return file
