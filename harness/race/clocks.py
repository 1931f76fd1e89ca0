"""Vector clocks: one a stream, one for the host, and what recorded events stand for."""

from __future__ import annotations

from collections.abc import Mapping

from harness.race.findings import HOST

EVENTS_KEPT = 1024  # recorded events kept before those that order nothing any more are dropped

Clock = dict[int, int]  # stream → how many of its ops are known to have run


class Clocks:
    """What has happened before what will be issued next, on each stream and on the host."""

    def __init__(self) -> None:
        self.host: Clock = {}
        self.streams: dict[int, Clock] = {HOST: self.host}
        self.events: dict[int, Clock] = {}
        self.events_room = EVENTS_KEPT
        self.events_peak = 0
        self.host_waits = 0
        self.host_moves = 0  # how often the host's clock has moved
        self.joined: dict[int, int] = {}  # stream → how many of these moves its clock takes into account

    def of(self, stream: int) -> Clock:
        """The stream's clock, with what the host has waited for joined in: issued after it, it happens after it."""
        if stream == HOST:
            return self.host
        clock = self.streams.setdefault(stream, {})
        if self.joined.get(stream) != self.host_moves:
            self.joined[stream] = self.host_moves
            join(clock, self.host)
        return clock

    def tick(self, stream: int) -> tuple[Clock, int]:
        """An op is issued: the clock of its stream, with it in, and its place there."""
        clock = self.of(stream)
        time = clock[stream] = clock.get(stream, 0) + 1
        if stream == HOST:
            self.host_moves += 1
        return clock, time

    def record(self, event: int, stream: int) -> None:
        self.events[event] = dict(self.of(stream))
        if len(self.events) >= self.events_room:
            self._drop_events()
        self.events_peak = max(self.events_peak, len(self.events))

    def event(self, event: int) -> Mapping[int, int]:
        """What the event stands for; nothing, where it was never recorded."""
        return self.events.get(event, {})

    def stream_waits(self, stream: int, event: int) -> None:
        join(self.of(stream), self.event(event))

    def host_waits_for(self, clock: Mapping[int, int]) -> None:
        join(self.host, clock)
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
