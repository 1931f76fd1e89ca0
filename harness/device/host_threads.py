"""The order among host threads as far as Python shows it: starts, joins and locks, and what is built on these.

Inside `followed_threads`, `threading.Lock` and `RLock` make locks that tell of themselves, and so do conditions,
events, semaphores, barriers, queues and futures, which are made of them; a SimpleQueue, of which executors are made,
tells of itself. Not followed: locks that were made before, or by a name that was bound before (`from threading import
Lock`), those of native code, and flags that threads look at in turn. Two threads between which only such things lie
count as unordered. Nothing is told, and nothing costs anything but the call, before a program starts its first thread.
"""

from __future__ import annotations

import _thread
import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from harness.device.streams import Machine


@contextmanager
def followed_threads(machine: Machine) -> Iterator[None]:
    """Inside, the machine's observers are told of what orders one host thread after another."""
    start, join, is_alive = threading.Thread.start, threading.Thread.join, threading.Thread.is_alive
    kept = threading.Lock, threading.RLock, queue.SimpleQueue

    def started(thread: threading.Thread) -> None:
        machine.threaded = True
        begun, run = Token(machine), thread.run
        ended = thread.ended = Token(machine)  # type: ignore[attr-defined]

        def running() -> None:
            begun.acquired()
            try:
                run()
            finally:
                ended.released()
                for observer in machine.observers:
                    observer.on_thread_end()

        thread.run = running  # type: ignore[method-assign]
        begun.released()
        start(thread)

    def joined(thread: threading.Thread, timeout: float | None = None) -> None:
        join(thread, timeout)
        alive(thread)

    def alive(thread: threading.Thread) -> bool:
        still = is_alive(thread)
        if not still and hasattr(thread, "ended"):
            thread.ended.acquired()
        return still

    names: Any = threading
    queues: Any = queue
    names.Thread.start, names.Thread.join, names.Thread.is_alive = started, joined, alive
    names.Lock, names.RLock = _maker(TellingLock, machine), _maker(TellingRLock, machine)
    queues.SimpleQueue = _maker(TellingQueue, machine)
    try:
        yield
    finally:
        names.Thread.start, names.Thread.join, names.Thread.is_alive = start, join, is_alive
        names.Lock, names.RLock, queues.SimpleQueue = kept


def _maker(kind: Callable[[Machine], Any], machine: Machine) -> Callable[[], Any]:
    return lambda: kind(machine)


class Token:
    """Something that one thread leaves and another takes: what the first did before is then before the second."""

    __slots__ = ("__weakref__", "machine")

    def __init__(self, machine: Machine) -> None:
        self.machine = machine

    def released(self) -> None:
        if self.machine.threaded:
            for observer in self.machine.observers:
                observer.on_release(self)

    def acquired(self) -> None:
        if self.machine.threaded:
            for observer in self.machine.observers:
                observer.on_acquire(self)


class TellingLock:
    """A lock with the interface of threading.Lock."""

    def __init__(self, machine: Machine) -> None:
        self._token, self._lock = Token(machine), self._made()

    def _made(self) -> Any:
        return _thread.allocate_lock()

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        got: bool = self._lock.acquire(blocking, timeout)
        if got:
            self._token.acquired()
        return got

    def release(self) -> None:
        self._token.released()
        self._lock.release()

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()

    def __getattr__(self, name: str) -> Any:  # locked, _is_owned and what torch's forks need
        if name.startswith("__") or name == "_lock":
            raise AttributeError(name)
        return getattr(self._lock, name)


class TellingRLock(TellingLock):
    """The same of threading.RLock; a condition lets go of it and takes it again by two methods of its own."""

    def _made(self) -> Any:
        return _thread.RLock()

    def _release_save(self) -> Any:
        self._token.released()
        return self._lock._release_save()

    def _acquire_restore(self, state: Any) -> None:
        self._lock._acquire_restore(state)
        self._token.acquired()


class TellingQueue(queue.SimpleQueue):  # type: ignore[type-arg]
    """A queue with the interface of queue.SimpleQueue; who gets from it comes after all that has been put so far."""

    def __init__(self, machine: Machine) -> None:
        self._token = Token(machine)

    def __new__(cls, machine: Machine) -> TellingQueue:
        return super().__new__(cls)

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        self._token.released()
        super().put(item)

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        item = super().get(block, timeout)
        self._token.acquired()
        return item

    def put_nowait(self, item: Any) -> None:
        self.put(item)

    def get_nowait(self) -> Any:
        return self.get(False)
