"""Finds accesses that nothing orders: one vector clock a stream, one for the host, and the bytes that each op touches.

The analysis follows the order in which the host issues work and needs no particular schedule: an op happens after
what its stream has run or waited for, and after all that the host had waited for when it issued the op (CUDA C++
Programming Guide, "Streams" and "Events"). Two accesses to a common byte, at least one a write, neither ordered
before the other, are a race, whether or not it changed a number in this execution.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from harness.race.clocks import Clock, Clocks, join
from harness.race.findings import (
    HOST,
    Case,
    Costs,
    Finding,
    FreedBlock,
    Kind,
    Mark,
    Memory,
    Origin,
    Side,
    Site,
    Storage,
    Touch,
    shortened,
)
from harness.race.freed import Freed
from harness.race.memory import Footprint, Written, covers, overlap
from harness.race.named import Named
from harness.race.pairs import Pairs
from harness.race.unwritten import CONVEYS, KEEPS, Access, Carried, carry

HISTORY = 32  # accesses kept for one storage before those that a newer one stands for are dropped
WINDOW = 240  # trace items kept for the story and the picture
CASES = 64  # instances kept of one finding; all are counted

Namer = Callable[[int, Footprint], str | None]


class Analysis:
    """Follows one rank's trace; feed it the callbacks below in the order in which the host issues work."""

    def __init__(
        self,
        namer: Namer = lambda storage, view: None,
        step: Callable[[], int | None] = lambda: None,
        history: int = HISTORY,
        on_new: Callable[[Finding], None] = lambda finding: None,
        pairs: Pairs | None = None,
    ) -> None:
        self.namer, self.step, self.on_new, self.pairs = namer, step, on_new, pairs
        self.history = history if pairs is None else sys.maxsize  # a dropped access would be a dropped pair
        self.clocks = Clocks()
        self.storages: dict[int, Storage] = {}
        self.freed = Freed()
        self.carried: list[Carried] | None = None  # of the op in progress, if it conveys what it reads
        self.findings: dict[tuple[Any, ...], Finding] = {}
        self.named = Named()
        self.window: deque[Mark] = deque(maxlen=WINDOW)
        self.costs, self.memory = Costs(), Memory()
        self.next_index = 0

    # ---- what the host does

    def op(
        self,
        index: int,
        name: str,
        stream: int,
        reads: Sequence[Access],
        writes: Sequence[Access],
        site: Site = (),
        place: int = 0,
        pointwise: bool = False,
    ) -> None:
        """An op was issued; reads and writes are (storage, footprint). Stream HOST: the host itself did it, now.

        `place` is this rank's in the group of a collective; `pointwise` works element by element.
        """
        clock, time, stream = self.clocks.tick(stream)
        mark = Mark(index, stream, "op", name, site)
        self.next_index = index + (stream > HOST)
        self.window.append(mark)
        self.costs.ops += 1
        self.carried = [] if pointwise or name in CONVEYS else None
        if self.pairs is not None:
            self.pairs.issued(index, stream, time, clock)
        if name in KEEPS:
            self._count_as_written(writes)
        for storage, view in reads:
            self._touch(storage, Touch(stream, time, view, False, mark), clock)
        for storage, view in writes:
            self._touch(storage, Touch(stream, time, view, True, mark), clock)
        for used in carry(name, self.carried, reads, writes, self.storages, place) if self.carried else ():
            self._report_unwritten(used.hole, used.origin, self.storages[used.access[0]])

    def record(self, event: int, stream: int, site: Site = ()) -> None:
        """An event was recorded on a stream; recording it again moves it."""
        self.clocks.record(event, stream)
        self.costs.records[site] += 1
        self.window.append(Mark(self.next_index, stream, "record", f"record event {event}", site, event))

    def stream_wait(self, stream: int, event: int, site: Site = ()) -> None:
        """A stream was made to wait for the event's last record; one never recorded is no wait."""
        self.clocks.stream_waits(stream, event)
        self.costs.stream_waits[site] += 1
        self.window.append(Mark(self.next_index, stream, "wait", f"wait event {event}", site, event))

    def host_wait_event(self, event: int, reason: str, site: Site = (), cost: bool = True) -> None:
        """The host waited for an event, or saw that it had passed (which orders as much but costs no wait)."""
        self._host_wait(self.clocks.event(event), reason, site, cost)

    def host_wait_stream(self, stream: int, reason: str, site: Site = (), cost: bool = True) -> None:
        """The host waited until a stream had run everything."""
        self._host_wait(self.clocks.of(stream), reason, site, cost)

    def host_wait_device(self, reason: str, site: Site = ()) -> None:
        """The host waited for every stream."""
        for clock in list(self.clocks.streams.values()):
            join(self.clocks.of(self.clocks.host_at_work()), clock)
        self._host_wait({}, reason, site, True)

    def alloc(self, storage: int, nbytes: int, stream: int, written: bool = False) -> None:
        """Memory was handed out on a stream; `written` where the caller filled it by other means."""
        new = self.storages[storage] = Storage(nbytes, stream, None if written else Written(nbytes))
        if self.freed.blocks.get(stream):
            new.blocks = self.freed.candidates(nbytes, stream, self.clocks.of(stream))
        if len(self.storages) > self.memory.storages_peak:
            self.memory.storages_peak = len(self.storages)

    def free(self, storage: int, site: Callable[[], Site] = lambda: ()) -> None:
        """The last reference went: the allocator may hand the block to the next allocation on its stream.

        Uses on other streams must be ordered before whoever gets it writes there. Of streams that were recorded
        (torch.Tensor.record_stream) the allocator awaits all work up to now, and with it what that happens after.
        """
        block = self.storages.pop(storage, None)
        if block is None:
            return
        self.memory.touches -= len(block.history)
        if block.stream <= HOST:  # torch's allocator of pinned memory awaits every copy itself
            return
        if all(old.stream == block.stream for old in block.history):
            return
        clock = self.clocks.after(block.stream, block.recorded)
        uses = [old for old in block.history if clock.get(old.stream, 0) < old.time]
        if uses:
            mark = Mark(self.next_index, block.stream, "op", "free", site())
            self.freed.add(block.stream, FreedBlock(storage, block.nbytes, uses, mark))

    def record_stream(self, storage: int, stream: int) -> None:
        """The allocator was told that a stream uses the storage."""
        if storage in self.storages:
            self.storages[storage].recorded |= {stream}

    # ---- inside

    def _host_wait(self, clock: Mapping[int, int], reason: str, site: Site, cost: bool) -> None:
        self.clocks.host_waits_for(clock)
        if cost:
            self.costs.host_waits[reason, site] += 1
        self.window.append(Mark(self.next_index, HOST, "host-wait", reason, site))

    def _touch(self, storage: int, new: Touch, clock: Clock) -> None:
        block = self.storages.get(storage)
        if (
            block is None
        ):  # older than the analysis, so it belongs to whoever is seen first and counts as written
            self.alloc(storage, new.view.end, new.stream, written=True)
            block = self.storages[storage]
        elif block.nbytes < new.view.end:
            block.nbytes = new.view.end
        if block.blocks and new.write:
            self._take_over(block, new, clock)
        if block.written is not None:
            self._follow_writes(block, storage, new)
        kept: list[Touch] = []
        stream, write, view = new.stream, new.write, new.view
        waits, host = self.clocks.host_waits, self.clocks.host
        prune, block.pruned = block.pruned != waits and not self.clocks.threaded, waits
        for old in block.history:
            if prune and host.get(old.stream, 0) >= old.time:
                continue  # the host has waited for it: it is before everything that can still be issued
            if old.stream != stream:
                unordered = clock.get(old.stream, 0) < old.time
                if unordered and (write or old.write) and overlap(old.view, view):
                    self._report("race", old, new, storage, block.nbytes)
            elif old.view is view and self.pairs is None and _repeats(old, new):
                continue
            kept.append(old)
        kept.append(new)
        if len(kept) > self.history:
            kept = self._shorten(kept, new, clock)
        memory = self.memory
        memory.touches += len(kept) - len(block.history)
        if memory.touches > memory.touches_peak:
            memory.touches_peak = memory.touches
        block.history = kept

    def _take_over(self, block: Storage, new: Touch, clock: Clock) -> None:
        """The first write to memory that may lie where another stream is still at work."""
        for freed in block.blocks:
            for use in freed.uses:
                if clock.get(use.stream, 0) < use.time:
                    free = Touch(block.stream, 0, Footprint(0, freed.nbytes), True, freed.free)
                    self._report("freed-in-use", use, free, freed.storage, freed.nbytes, new)
                    self.freed.forget(block.stream, freed)
        block.blocks = []

    def _follow_writes(self, block: Storage, storage: int, new: Touch) -> None:
        assert block.written is not None
        view = new.view
        if new.write:
            whole = not view.dims and view.start == 0 and view.run >= block.nbytes
            if not whole:
                block.written.add(view)
            if whole or block.written.full:
                block.written = None
        elif gap := block.written.missing(new.view):
            hole = new._replace(view=Footprint(gap[0], gap[1] - gap[0]))
            origin = block.origin or Origin(hole, storage)
            if self.carried is not None:
                self.carried.append(Carried((storage, view), hole, block.written.gaps(view), origin))
                return
            self._report_unwritten(hole, origin, block)

    def _report_unwritten(self, hole: Touch, origin: Origin, block: Storage) -> None:
        self._report("unwritten-read", origin.touch, origin.use or hole, origin.storage, block.nbytes)
        if block.origin and block.written:  # the first use stands for all of what was brought here
            block.written.add(Footprint(0, block.nbytes))

    def _count_as_written(self, writes: Sequence[Access]) -> None:
        for storage, view in writes:
            block = self.storages.get(storage)
            if block is not None and block.written is not None:
                block.written.add(view)

    def _shorten(self, kept: list[Touch], new: Touch, clock: Clock) -> list[Touch]:
        """Drop what the new access stands for: whoever races with a dropped one also races with the new one."""
        short = [
            old
            for old in kept
            if old is new
            or not (
                clock.get(old.stream, 0) >= old.time
                and (new.write or not old.write)
                and covers(new.view, old.view)
            )
        ]
        self.memory.dominated += len(kept) - len(short)
        excess = len(short) - 8 * self.history
        if excess > 0:
            self.memory.forgotten += excess
            short = short[excess:]
        return short

    def _report(
        self,
        kind: Kind,
        first: Touch,
        second: Touch,
        storage: int,
        nbytes: int,
        takeover: Touch | None = None,
    ) -> None:
        if self.pairs is not None and kind == "race":
            self.pairs.add(first, second)
        key = (kind, *((t.op.name, t.op.site[:1], t.write, t.stream) for t in (first, second)))
        found = self.findings.get(key)
        if found is None:
            last = None if takeover is None else Side.of(takeover)
            found = Finding(kind, Side.of(first), Side.of(second), storage, nbytes, last)
            found.window = self._excerpt(first.op)
            self.findings[key] = found
            self.on_new(found)
        found.count += 1
        view = (first if kind == "unwritten-read" else second).view
        case = len(found.cases) if len(found.cases) < CASES else None
        name = self.named.name(storage, view, self.namer(storage, view), found, case)
        found.names[name] += 1
        step = self.step()
        if step is not None:
            found.steps.add(step)
        if case is not None:
            view = second.view if kind == "race" else first.view
            last_index = (takeover or second).op.index
            found.cases.append(Case(first.op.index, last_index, name, view.start, view.end, step))

    def _excerpt(self, first: Mark) -> tuple[Mark, ...]:
        """The trace around a pair; where it is long, the neighbourhood of both ends and every wait between."""
        return shortened([mark for mark in self.window if mark.index >= first.index - 4])


def _repeats(old: Touch, new: Touch) -> bool:
    """The same line touching the same bytes again on the same stream: the newer stands for both."""
    return (
        old.write == new.write
        and old.op.name == new.op.name
        and bool(new.op.site)
        and old.op.site == new.op.site
    )
