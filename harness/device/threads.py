"""Python threads on the virtual device: torch keeps its modes for each thread, and so does CUDA its current stream.

A program without threads pays nothing: the machine and its dispatcher become shared ones when the first is started.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from harness.device.dispatch import Dispatcher
from harness.device.functions import Functions
from harness.device.streams import Follower, Machine, Stream


class SharedMachine(Machine):
    """A machine whose current stream and backward pass are each thread's own; threads start on the default stream."""

    currents: dict[int, Stream]
    passes: dict[int, Follower | None]
    lock: Any

    @property
    def _current(self) -> Stream:
        return self.currents.get(threading.get_ident(), self.default)

    @_current.setter
    def _current(self, stream: Stream) -> None:
        self.currents[threading.get_ident()] = stream

    @property
    def backward(self) -> Follower | None:
        return self.passes.get(threading.get_ident())

    @backward.setter
    def backward(self, passing: Follower | None) -> None:
        self.passes[threading.get_ident()] = passing


class SharedDispatcher(Dispatcher):
    """A dispatcher that lets one thread at a time issue."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        with self.machine.lock:  # type: ignore[attr-defined]
            return super().__torch_dispatch__(func, types, args, kwargs)


def follow_threads(dispatcher: Dispatcher, functions: Functions) -> None:
    """Let the threads that Python starts from now on work on the device."""
    start = threading.Thread.start

    def started(thread: threading.Thread) -> None:
        share(dispatcher)
        run = thread.run

        def on_device() -> None:
            with modes_of_thread(dispatcher, functions):
                run()

        thread.run = on_device  # type: ignore[method-assign]
        start(thread)

    threading.Thread.start = started  # type: ignore[method-assign,assignment]


def share(dispatcher: Dispatcher) -> None:
    """Make a machine and its dispatcher fit for several threads; called by the one that uses them now."""
    machine: Any = dispatcher.machine
    if isinstance(machine, SharedMachine):
        return
    machine.lock = threading.RLock()
    machine.currents = {threading.get_ident(): machine.__dict__.pop("_current")}
    machine.passes = {threading.get_ident(): machine.__dict__.pop("backward")}
    machine.__class__ = SharedMachine
    dispatcher.__class__ = SharedDispatcher


@contextmanager
def modes_of_thread(dispatcher: Dispatcher, functions: Functions) -> Iterator[None]:
    """Inside, this thread works on the device of the dispatcher."""
    mine = Functions(functions.machine, functions.memory, functions.handlers)
    issuing = SharedDispatcher(dispatcher.machine, dispatcher.memory, mine.placement)
    issuing.generator = dispatcher.generator
    with issuing, mine:
        yield
