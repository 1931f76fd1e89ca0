"""Vector clocks: one a stream, one for each thread of the host, and what recorded events stand for.

Two threads that issue to one stream are ordered by it as they came in this run; whether they might have come the other
way round is not asked.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from threading import get_ident
from weakref import WeakKeyDictionary

from harness.race.findings import HOST

EVENTS_KEPT = 1024  # recorded events kept before those that order nothing any more are dropped

Clock = dict[int, int]  # stream → how many of its ops are known to have run


class Clocks:
    """What has happened before what will be issued next, on each stream and on the host."""

    def __init__(self) -> None:
        self.host: Clock = {}  # of the thread that everything began in
        self.streams: dict[int, Clock] = {HOST: self.host}
        self.threads = {get_ident(): HOST}  # thread at work → its place in clocks, from HOST down
        self.lowest = HOST
        self.workers = {
            HOST
        }  # places of those that issued, recorded or waited; others only take and leave locks
        self.left: WeakKeyDictionary[Hashable, Clock] = (
            WeakKeyDictionary()
        )  # with a lock or at a thread's end
        self.events: dict[int, Clock] = {}
        self.events_room = EVENTS_KEPT
        self.events_peak = 0
        self.host_waits = 0
        self.host_moves = 0  # how often a clock of the host has moved
        self.joined: dict[int, int] = {}  # stream → how many of these moves its clock takes into account

    @property
    def threaded(self) -> bool:
        """Whether several threads have worked on the device."""
        return len(self.workers) > 1

    @property
    def host_threads(self) -> int:
        """How many have worked on the device so far."""
        return len(self.workers)

    def host_at_work(self) -> int:
        """The place in clocks of the thread that is at work."""
        place = self.threads.get(get_ident())
        if place is None:
            self.lowest -= 1
            place = self.threads[get_ident()] = self.lowest
        return place

    def _work(self) -> None:
        if self.lowest < HOST:
            self.workers.add(self.host_at_work())

    def end_thread(self) -> None:
        self.threads.pop(get_ident(), None)

    def release(self, token: Hashable) -> None:
        """The thread at work leaves something that another may take."""
        clock = dict(self.of(self.host_at_work()))
        if (earlier := self.left.get(token)) is not None:
            join(clock, earlier)
        self.left[token] = clock

    def acquire(self, token: Hashable) -> None:
        """It takes what was left: it now happens after that."""
        if (left := self.left.get(token)) is not None:
            join(self.of(self.host_at_work()), left)
            self.host_moves += 1

    def of(self, stream: int) -> Clock:
        """The stream's clock, with what the host has waited for joined in: issued after it, it happens after it."""
        clock = self.streams.setdefault(stream, {})
        if stream <= HOST:
            return clock
        if self.threaded:
            join(clock, self.streams.setdefault(self.host_at_work(), {}))
        elif self.joined.get(stream) != self.host_moves:
            self.joined[stream] = self.host_moves
            join(clock, self.host)
        return clock

    def tick(self, stream: int) -> tuple[Clock, int, int]:
        """Something is issued: the clock of its stream, with it in, its place there, and the stream or host thread."""
        self._work()
        if stream == HOST:
            stream = self.host_at_work()
            self.host_moves += 1
        clock = self.of(stream)
        time = clock[stream] = clock.get(stream, 0) + 1
        return clock, time, stream

    def record(self, event: int, stream: int) -> None:
        self._work()
        self.events[event] = dict(self.of(stream))
        if len(self.events) >= self.events_room and not self.threaded:
            self._drop_events()
        self.events_peak = max(self.events_peak, len(self.events))

    def event(self, event: int) -> Mapping[int, int]:
        """What the event stands for; nothing, where it was never recorded."""
        return self.events.get(event, {})

    def stream_waits(self, stream: int, event: int) -> None:
        self._work()
        join(self.of(stream), self.event(event))

    def host_waits_for(self, clock: Mapping[int, int]) -> None:
        self._work()
        join(self.of(self.host_at_work()), clock)
        self.host_waits += 1
        self.host_moves += 1

    def after(self, stream: int, others: frozenset[int]) -> Clock:
        """A copy of the stream's clock, with all work of the others joined in."""
        clock = dict(self.of(stream))
        for other in others:
            join(clock, self.of(other))
        return clock

    def _drop_events(self) -> None:
        """Forget events that stand for nothing but what the host has waited for: to wait for them changes nothing."""
        host = self.host
        self.events = {
            event: clock
            for event, clock in self.events.items()
            if any(host.get(stream, 0) < time for stream, time in clock.items())
        }
        self.events_room = max(EVENTS_KEPT, 2 * len(self.events))


def join(clock: Clock, other: Mapping[int, int]) -> None:
    for stream, time in other.items():
        if clock.get(stream, 0) < time:
            clock[stream] = time
