"""What the race analysis keeps and finds: accesses, findings and the trace around them, and what ordering cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from harness.race.memory import Footprint, Written

HOST = -1
"""The host's place in clocks: its own accesses (to pinned memory) and what it has waited for.

Equal to the one of harness.device.observe, which needs torch."""

SHOWN = 60  # of them, how many one finding keeps

Site = tuple[Any, ...]  # innermost frame first; what a frame is, is the caller's to say
Kind = Literal["race", "freed-in-use", "unwritten-read"]


@dataclass(slots=True)  # not frozen: one is made for every op, and a frozen one takes three times as long
class Mark:
    """One thing that was issued, as the picture shows it."""

    index: int  # op index; of a wait or record, the index of the next op
    stream: int
    what: Literal["op", "record", "wait", "host-wait"]
    name: str
    site: Site = ()
    target: int | None = None  # of a wait: the event


class Touch(NamedTuple):
    """One access of one op to one storage."""

    stream: int
    time: int  # the op's place in its stream's clock
    view: Footprint
    write: bool
    op: Mark


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two accesses of a finding."""

    op: str
    index: int
    stream: int
    write: bool
    low: int
    high: int
    site: Site

    @classmethod
    def of(cls, touch: Touch) -> Side:
        view, op = touch.view, touch.op
        return cls(op.name, op.index, touch.stream, touch.write, view.start, view.end, op.site)


class Case(NamedTuple):
    """One instance of a finding: op indices, the memory's name, the second access's bytes, the training step."""

    first: int
    second: int
    name: str
    low: int
    high: int
    step: int | None


@dataclass
class Finding:
    """A pair of source places between which an ordering is missing, and how often it was met."""

    kind: Kind
    first: Side  # in issue order; of an unwritten read, the first one and the one that computes with it
    second: Side
    storage: int
    nbytes: int
    takeover: Side | None = None  # of memory freed while in use: the first write of who was given the block
    count: int = 0
    names: Counter[str] = field(default_factory=Counter)
    steps: set[int] = field(default_factory=set)
    cases: list[Case] = field(default_factory=list)  # the first few
    window: tuple[Mark, ...] = ()


class Origin(NamedTuple):
    """Where memory without content was first read, to be carried to where it lies now."""

    touch: Touch
    storage: int
    use: Touch | None = None  # the first op on the way that worked on it, element by element


@dataclass(slots=True)
class FreedBlock:
    """A block that the allocator has back although other streams than its own may still be at it."""

    storage: int
    nbytes: int
    uses: list[Touch]
    free: Mark


@dataclass(slots=True)
class Storage:
    """What is known of one allocation."""

    nbytes: int
    stream: int
    written: Written | None  # None: allocated before the analysis began, so taken as written
    history: list[Touch] = field(default_factory=list)
    origin: Origin | None = None  # of what it has that is unwritten because its source was
    recorded: frozenset[int] = frozenset()  # streams of record_stream
    blocks: list[FreedBlock] = field(
        default_factory=list
    )  # one of which may lie under this, until it is written
    pruned: int = 0  # how many host waits its history takes into account


@dataclass
class Costs:
    """What ordering cost in this execution, by source place."""

    ops: int = 0
    host_waits: Counter[tuple[str, Site]] = field(default_factory=Counter)
    records: Counter[Site] = field(default_factory=Counter)
    stream_waits: Counter[Site] = field(default_factory=Counter)


@dataclass(slots=True)
class Memory:
    """What the analysis itself holds, at most and in all."""

    storages_peak: int = 0
    touches_peak: int = 0
    touches: int = 0
    dominated: int = 0  # dropped because a newer, ordered access stands for them
    forgotten: int = 0  # dropped unseen, for want of room: a race with them would be missed


def shortened(marks: Sequence[Mark]) -> tuple[Mark, ...]:
    """At most SHOWN marks: both ends, and waits and records between."""
    if len(marks) <= SHOWN:
        return tuple(marks)
    near = SHOWN // 3
    middle = [mark for mark in marks[near:-near] if mark.what != "op"][:near]
    return (*marks[:near], *middle, *marks[-near:])
