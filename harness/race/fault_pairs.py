"""What came of a corpus: for each fault, whether the side that has it showed it and the side that ended it is silent.

A corpus's corpus.json is a `Pairs`; its JSON Schema stands in race-corpus.schema.json beside this module.
"""

from __future__ import annotations

from pathlib import Path
from statistics import median
from typing import Any, Literal

from harness.race.fault import Case
from harness.race.report import Report
from harness.race.searched import Frozen

SCHEMA_FILE = Path(__file__).with_name("race-corpus.schema.json")


class Shown(Frozen):
    """The side that has the fault."""

    release: str
    verdict: Literal["found", "missed"]
    why: str | None = None  # of a miss
    first: str | None = None  # the two places of the finding
    second: str | None = None
    changed: str | None = None  # what differs under the schedule that was found
    decisions: int | None = None  # swapped orders in it; None of poisoned memory, which needs no schedule
    schedules: int = 0  # tried
    seconds: float | None = None  # from the start, imports included, to that schedule, shrunk
    replay: str | None = None  # relative to the results folder


class Silent(Frozen):
    """The side that ended it."""

    release: str
    verdict: Literal["clean", "wrong"]
    reports: tuple[str, ...] = ()  # what it was reported for, or why it did not run
    host_waits: float = 0.0  # a step on rank 0, as are the stream waits: what the order costs
    stream_waits: float = 0.0


class Pair(Frozen):
    """One fault."""

    name: str
    kind: str
    fault: str
    links: tuple[str, ...] = ()
    note: str | None = None
    has: Shown
    ended: Silent
    host_waits: float = 0.0  # of the side that has it
    stream_waits: float = 0.0
    asked: str  # digest of everything that was asked: unchanged, it is not asked again

    @property
    def good(self) -> bool:
        return self.has.verdict == "found" and self.ended.verdict == "clean"


class NotHere(Frozen):
    """A fault that cannot be met on a CPU."""

    name: str
    kind: str
    fault: str
    links: tuple[str, ...] = ()
    why: str


class Pairs(Frozen):
    """A whole corpus, misses and false alarms first."""

    schema_version: Literal[1] = 1
    kind: Literal["race corpus"] = "race corpus"
    evidence: Literal["virtual-device"] = "virtual-device"
    pairs: tuple[Pair, ...]
    not_here: tuple[NotHere, ...] = ()
    versions: dict[str, str | None]
    seconds: float  # of the last call
    asked: int  # pairs that were run in it; the others were run before

    @property
    def found(self) -> int:
        return sum(pair.has.verdict == "found" for pair in self.pairs)

    @property
    def false_alarms(self) -> int:
        """Sides that ended a fault and were reported all the same."""
        return sum(pair.ended.verdict == "wrong" for pair in self.pairs)

    @property
    def median_seconds(self) -> float | None:
        """From the start to a failing, shrunk schedule; None where none was found."""
        seconds = [pair.has.seconds for pair in self.pairs if pair.has.seconds is not None]
        return round(median(seconds), 1) if seconds else None

    @property
    def summary(self) -> str:
        """The numbers in one sentence."""
        longest = max((pair.has.seconds or 0.0 for pair in self.pairs), default=0.0)
        times = (
            f"; {self.median_seconds:.1f} s (median, at most {longest:.1f} s) to a failing schedule"
            if self.median_seconds is not None
            else ""
        )
        return (
            f"{self.found} of {len(self.pairs)} faults found, {self.false_alarms} false alarms on the "
            f"{len(self.pairs)} sides that ended them{times}; {len(self.not_here)} cannot be met here"
        )


def order_of(pair: Pair) -> tuple[bool, bool, str]:
    """Misses first, then false alarms."""
    return pair.has.verdict == "found", pair.ended.verdict == "clean", pair.name


def silent(case: Case, report: Report) -> Silent:
    """The verdict on the side that ended a fault: any report at all is a false alarm."""
    assert case.fault.ended is not None
    reports = (
        *report.problems,
        *(f"{race.kind}: {race.first.place} / {race.second.place}" for race in report.races),
    )
    return Silent(
        release=str(case.fault.ended),
        verdict="wrong" if reports else "clean",
        reports=reports,
        host_waits=per_step(report, "host-wait"),
        stream_waits=per_step(report, "stream-wait"),
    )


def per_step(report: Report, kind: str) -> float:
    return round(sum(cost.count for cost in report.costs if cost.kind == kind) / (report.steps or 1), 2)


def json_schema() -> dict[str, Any]:
    return Pairs.model_json_schema()
