"""What the engine keeps along a simulated step: streams and their queues, work under way, and the GPU's memory."""

from __future__ import annotations

from collections import deque


class Memory:
    """The bytes of one GPU: in use, or freed while a stream still works with them."""

    def __init__(self, live: int, capacity: float) -> None:
        self.base = self.live = self.peak = live
        self.capacity, self.fits = capacity, True
        self.kept: dict[int, set[int]] = {}  # storage → streams that also use it
        self.pending: list[tuple[int, list[tuple[int, int]]]] = []  # (bytes, [(stream, position)])
        self.pending_bytes = 0

    def alloc(self, storage: int, size: int) -> None:
        self.live += size
        self.peak = max(self.peak, self.live)
        if self.live > self.capacity:
            self.fits = False

    def free(self, storage: int, size: int, streams: list[Stream]) -> None:
        self.live -= size
        if kept := self.kept.pop(storage, None):
            self.pending.append((size, [(s, streams[s].issued) for s in kept]))
            self.pending_bytes += size

    def keep(self, storage: int, stream: int) -> None:
        self.kept.setdefault(storage, set()).add(stream)

    def lacks(self, size: int, streams: list[Stream]) -> bool:
        """Whether only memory that is still in use elsewhere could serve the request."""
        if self.live + self.pending_bytes + size <= self.capacity:
            return False
        self.settle(streams)
        return bool(self.pending) and self.live + self.pending_bytes + size > self.capacity

    def settle(self, streams: list[Stream]) -> None:
        """Take back what no stream uses any more."""
        still = [
            (size, points)
            for size, points in self.pending
            if any(streams[s].done < position for s, position in points)
        ]
        self.pending, self.pending_bytes = still, sum(size for size, _ in still)

    def pending_targets(self) -> list[tuple[int, int]]:
        return [point for _, points in self.pending for point in points]

    def restart(self) -> None:
        """A step ends with the memory that it began with."""
        self.live = self.base


class Stream:
    """A FIFO; positions count what was ever put into it."""

    __slots__ = ("done", "issued", "queue", "running", "waits_for")

    def __init__(self) -> None:
        self.queue: deque[tuple[int, int, int]] = (
            deque()
        )  # (row, or -1 for a wait; stream, position waited for)
        self.issued = self.done = 0
        self.running = False
        self.waits_for: tuple[int, int] | None = None


class Job:
    """What runs on a stream now."""

    __slots__ = ("end", "left", "rate", "run", "stream", "use")

    def __init__(self, run: int, stream: int, seconds: float, use: tuple[float, ...], now: float) -> None:
        self.run, self.stream, self.left, self.use = run, stream, seconds, use
        self.rate, self.end = 1.0, now + seconds
