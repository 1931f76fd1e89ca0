"""What the virtual device tells those who watch it: the race analysis, the simulator, tests.

Nothing is computed when nobody watches. Ids are small integers that count from 0 in the order of creation; all of
them are equal on every rank of a program that does the same on every rank.
"""

from __future__ import annotations

import sys
from collections.abc import Hashable
from dataclasses import dataclass
from pathlib import Path
from types import CodeType
from typing import Literal, NamedTuple

import torch

HOST = -1  # in place of a stream: the host, which touches pinned memory itself
# Frames of this package and of torch say nothing about the program.
NOT_THE_PROGRAM = (str(Path(__file__).parent), str(Path(torch.__file__).parent))


class Access(NamedTuple):
    """The exact elements that an op touches: a strided view of one storage; offset, sizes and strides in elements."""

    storage: int  # negative: pinned host memory
    offset: int
    sizes: tuple[int, ...]
    strides: tuple[int, ...]
    itemsize: int  # bytes


class Collective(NamedTuple):
    """One kind of collective call. `nbytes` is the whole payload: the gathered output, the input to be scattered,
    or the tensor itself for all_reduce, broadcast and reduce."""

    op: str
    ranks: tuple[int, ...]  # global ranks of the group, in group order
    nbytes: int
    group: int = 0  # number of the group in the order of first use; 0 is the world


@dataclass(frozen=True, slots=True)
class Site:
    """Where in the program something was issued: frames innermost first, formatted only when asked."""

    stack: tuple[tuple[CodeType, int], ...]

    def frames(self) -> list[tuple[str, int, str]]:
        """(file, line, function), innermost first."""
        return [(code.co_filename, line, code.co_qualname) for code, line in self.stack]


OpKind = Literal["op", "copy", "collective"]


@dataclass(slots=True)  # not frozen: one is made for every op, and a frozen one takes three times as long
class OpRecord:
    """An op as issued. What it overwrites without reading stands in `writes` alone.

    A copy between device and pinned host memory touches both. Where the host itself touches pinned memory, stream is
    HOST and index that of the next op.
    """

    index: int
    name: str
    stream: int
    kind: OpKind
    reads: tuple[Access, ...]
    writes: tuple[Access, ...]
    collective: Collective | None = None
    pointwise: bool = False  # works element by element


class WaitTarget(NamedTuple):
    """What the host waits for: all work of a stream so far, or a recorded event."""

    kind: Literal["stream", "event"]
    id: int


class Observer:
    """Base of all observers; override what is of interest. Calls come in issue order, from the issuing thread.

    Whoever wants to know where in the program an op was issued looks at the stack when told of it.
    """

    def on_op(self, op: OpRecord) -> None:
        """An op was issued to its stream, or the host has touched pinned memory."""

    def on_run(self, index: int) -> None:
        """The op of that index was executed."""

    def on_event_record(self, event: int, stream: int) -> None:
        """The event now stands for all work issued to the stream so far; earlier waits for it keep their meaning."""

    def on_stream_wait(self, stream: int, event: int) -> None:
        """Later work of the stream runs after what the event stands for."""

    def on_host_wait(self, target: WaitTarget, reason: str, site: Site) -> None:
        """The host knows that the target has completed; `reason` is a kind of host synchronise or "query"."""

    def on_alloc(self, storage: int, nbytes: int, stream: int, written: bool) -> None:
        """Device memory was allocated while the stream was current, or pinned memory (HOST); `written`: and filled."""

    def on_free(self, storage: int) -> None:
        """The last use of the memory is gone. Under a policy that defers, ops still to run count as uses."""

    def on_record_stream(self, storage: int, stream: int) -> None:
        """The memory may not be reused before the stream's work so far is done."""

    def on_release(self, token: Hashable) -> None:
        """The host thread at work leaves something, as a lock; it is told only of programs with several threads."""

    def on_acquire(self, token: Hashable) -> None:
        """The host thread at work takes it: what was done before it was left is done."""

    def on_thread_end(self) -> None:
        """The host thread at work does nothing more; its number may be another's."""


def call_site(depth: int) -> Site:
    """The innermost `depth` frames outside this package and torch."""
    stack: list[tuple[CodeType, int]] = []
    frame = sys._getframe(1)
    while frame is not None and len(stack) < depth:
        if not frame.f_code.co_filename.startswith(NOT_THE_PROGRAM):
            stack.append((frame.f_code, frame.f_lineno))
        frame = frame.f_back  # type: ignore[assignment]
    return Site(tuple(stack))
