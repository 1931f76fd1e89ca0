"""What a race analysis says: records of one rank, merged over all ranks, as JSON and as text for a terminal.

`races.json` is a `Report`; its JSON Schema stands in races.schema.json beside this module.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from harness.race.happens_before import HOST, Analysis, Finding, Mark, Side
from harness.race.sites import Frame

SCHEMA_FILE = Path(__file__).with_name("races.schema.json")


class Frozen(BaseModel):
    """Base of all records of the report."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Place(Frozen):
    """One source line."""

    file: str
    line: int
    function: str
    code: str = ""

    @classmethod
    def of(cls, frame: Any) -> Place:
        if isinstance(frame, Frame):
            return cls(file=frame.short, line=frame.line, function=frame.function, code=frame.code)
        return cls(file=str(frame[0]), line=int(frame[1]), function=str(frame[2]) if len(frame) > 2 else "")

    def __str__(self) -> str:
        return f"{self.file}:{self.line} {self.function}".rstrip()


class Access(Frozen):
    """One of the two accesses: an op on a stream, the byte interval [low, high) of the storage, and who issued it."""

    op: str
    access: Literal["READ", "WRITE", "FREE"]
    stream: str
    low: int
    high: int
    site: tuple[Place, ...]

    @property
    def place(self) -> str:
        return str(self.site[0]) if self.site else "(no Python frame)"


class Trace(Frozen):
    """One issued thing of the excerpt around a race."""

    index: int
    stream: str
    what: Literal["op", "record", "wait", "host-wait"]
    name: str
    place: str = ""
    event: int | None = None


class Effect(Frozen):
    """Whether some legal schedule changes values because of a race."""

    found: bool
    schedules: int  # tried
    schedule: str | None = None  # the one that was found, in words
    decisions: int | None = None  # how many orders were swapped in it, after minimisation
    changed: str | None = None  # what differs from the reference
    also: tuple[str, ...] = ()  # named policies under which the values of the whole program change
    replay: str | None = None  # file that reproduces it, or the first of `also` where it was not found
    story: tuple[str, ...] = ()


class Instance(Frozen):
    """One case: op indices in the order of issue, the memory's name, the second access's bytes, the training step."""

    first: int
    second: int
    name: str
    low: int
    high: int
    step: int | None = None


class Race(Frozen):
    """A pair of source places between which an ordering is missing."""

    id: str
    kind: Literal["race", "freed-in-use", "unwritten-read"]
    label: str | None = None  # a fault known by name, see LABELS
    first: Access  # in the order of issue; of an unwritten read, both are the read
    second: Access
    names: dict[str, int]  # tensor or parameter → times
    nbytes: int  # of the storage, in the first case met
    count: int
    ranks: tuple[int, ...]
    steps: tuple[int, ...] = ()  # training steps in which it was met, where an engine says so
    cases: dict[int, tuple[Instance, ...]] = {}  # rank → the first few
    window: tuple[Trace, ...] = ()
    effect: Effect | None = None


class Cost(Frozen):
    """How often one source place waited or recorded on one rank."""

    kind: Literal["host-wait", "event-record", "stream-wait"]
    reason: str = ""
    place: Place | None
    count: int


class Held(Frozen):
    """What the analysis itself held."""

    storages_peak: int
    accesses_peak: int
    accesses_dominated: int  # dropped, a newer one stands for them
    accesses_forgotten: int  # dropped for want of room: a race with them would be missed
    events_peak: int = 0


class RankReport(Frozen):
    """One rank's analysis."""

    rank: int
    ops: int
    steps: int | None = None  # optimizer steps of a script; None of a run, which writes them down itself
    races: tuple[Race, ...]
    costs: tuple[Cost, ...]
    held: Held
    digest: str | None = None  # of the program's final values
    problem: str | None = None


class Report(Frozen):
    """All ranks' analyses, merged."""

    schema_version: Literal[1] = 1
    program: str
    ranks: int
    steps: int | None = None
    settings: dict[str, Any] = {}
    evidence: Literal["virtual-device"] = "virtual-device"
    ops: int  # over all ranks
    races: tuple[Race, ...]
    costs: tuple[Cost, ...]  # of rank 0
    held: Held  # the largest of any rank
    problems: tuple[str, ...] = ()
    schedules_tried: int = 0

    def of_kind(self, kind: str) -> list[Race]:
        return [race for race in self.races if race.kind == kind]

    @property
    def labels(self) -> set[str]:
        return {race.label for race in self.races if race.label}


LABELS = {
    "hpz-secondary-copy": "hpZ: the copy into the secondary tensor and the all-gather that reads it",
    "step-partition-copy": "ZeRO-3: the optimizer step's copy into the 16-bit partitions and the next all-gather",
    "hpz-missing-copy": "hpZ: the old copy leaves a part of the secondary tensor unwritten",
}

_GATHERS = {
    "all_gather_coalesced",
    "_all_gather_coalesced",
    "_all_gather_sequential",
    "_all_gather_dtype",
    "_dist_allgather_fn",
    "_allgather_params_coalesced",
    "__all_gather_params_",
}
_SECONDARY_COPIES = {"_partition_param_sec"}
_STEP_COPIES = {
    "_reassign_or_swap_out_partitioned_parameters",
    "_unflatten_partitioned_parameters",
    "_release_sub_group",
}


def label_of(kind: str, first: Sequence[Place], second: Sequence[Place], names: Iterable[str]) -> str | None:
    """The name of a known fault whose functions are those of the finding; None for all others."""
    early = {place.function for place in first[:2]}
    late = {place.function for place in second}
    if kind == "unwritten-read":
        secondary = any("ds_secondary_tensor" in name for name in names)
        return "hpz-missing-copy" if secondary and late & _GATHERS else None
    if kind == "race" and late & _GATHERS and early & _SECONDARY_COPIES:
        return "hpz-secondary-copy"
    if kind == "race" and late & _GATHERS and early & _STEP_COPIES:
        return "step-partition-copy"
    return None


def rank_report(
    rank: int,
    analysis: Analysis,
    streams: Mapping[int, str],
    *,
    steps: int | None = None,
    digest: str | None = None,
    problem: str | None = None,
) -> RankReport:
    """What one rank's analysis found; `streams` names the streams."""
    memory = analysis.memory
    return RankReport(
        rank=rank,
        ops=analysis.costs.ops,
        steps=steps,
        races=tuple(_race(rank, finding, streams) for finding in analysis.findings.values()),
        costs=tuple(_costs(analysis)),
        held=Held(
            storages_peak=memory.storages_peak,
            accesses_peak=memory.touches_peak,
            accesses_dominated=memory.dominated,
            accesses_forgotten=memory.forgotten,
            events_peak=memory.events_peak,
        ),
        digest=digest,
        problem=problem,
    )


HOST_STREAM = "host"


def stream_name(streams: Mapping[int, str], stream: int) -> str:
    return HOST_STREAM if stream == HOST else streams.get(stream, f"stream {stream}")


def _race(rank: int, finding: Finding, streams: Mapping[int, str]) -> Race:
    first, second = _access(finding.first, streams), _access(finding.second, streams)
    if finding.kind == "freed-in-use":
        second = second.model_copy(update={"access": "FREE"})
    return Race(
        id=_identity(finding.kind, first, second),
        kind=finding.kind,
        label=label_of(finding.kind, first.site, second.site, finding.names),
        first=first,
        second=second,
        names=dict(finding.names.most_common(12)),
        nbytes=finding.nbytes,
        count=finding.count,
        ranks=(rank,),
        steps=tuple(sorted(finding.steps)),
        cases={rank: tuple(Instance(**case._asdict()) for case in finding.cases)},
        window=tuple(traced(mark, streams) for mark in finding.window),
    )


def _access(side: Side, streams: Mapping[int, str]) -> Access:
    return Access(
        op=side.op,
        access="WRITE" if side.write else "READ",
        stream=stream_name(streams, side.stream),
        low=side.low,
        high=side.high,
        site=tuple(Place.of(frame) for frame in side.site),
    )


def traced(mark: Mark, streams: Mapping[int, str]) -> Trace:
    return Trace(
        index=mark.index,
        stream=stream_name(streams, mark.stream),
        what=mark.what,
        name=mark.name,
        place=str(Place.of(mark.site[0])) if mark.site else "",
        event=mark.target,
    )


def _identity(kind: str, first: Access, second: Access) -> str:
    """The same pair of source lines has the same id on every rank and in every run."""
    sides = [(a.op, a.access, a.stream, a.place) for a in (first, second)]
    return hashlib.sha256(repr((kind, sides)).encode()).hexdigest()[:10]


def _costs(analysis: Analysis) -> Iterator[Cost]:
    costs = analysis.costs
    by_line: Counter[tuple[str, str, Any]] = Counter()
    for (reason, site), count in costs.host_waits.items():
        by_line["host-wait", reason, site[:1]] += count
    for site, count in costs.records.items():
        by_line["event-record", "", site[:1]] += count
    for site, count in costs.stream_waits.items():
        by_line["stream-wait", "", site[:1]] += count
    for (kind, reason, site), count in by_line.most_common():
        yield Cost(
            kind=kind,  # type: ignore[arg-type]
            reason=reason,
            place=Place.of(site[0]) if site else None,
            count=count,
        )


def merge(reports: Sequence[RankReport], program: str, **settings: Any) -> Report:
    """One report of all ranks: the same pair of lines is one race, with its ranks and counts added."""
    merged: dict[str, Race] = {}
    for race in (race for report in reports for race in report.races):
        merged[race.id] = _join(merged[race.id], race) if race.id in merged else race
    order = {"race": 0, "freed-in-use": 1, "unwritten-read": 2}
    return Report(
        program=program,
        ranks=len(reports),
        ops=sum(report.ops for report in reports),
        steps=min((report.steps for report in reports if report.steps is not None), default=None),
        races=tuple(sorted(merged.values(), key=lambda race: (order[race.kind], -race.count, race.id))),
        costs=next((report.costs for report in reports if report.rank == 0), ()),
        held=_largest([report.held for report in reports]),
        problems=tuple(dict.fromkeys(report.problem for report in reports if report.problem)),
        **settings,
    )


def _join(one: Race, other: Race) -> Race:
    names = Counter(one.names) + Counter(other.names)
    return one.model_copy(
        update={
            "names": dict(names.most_common(12)),
            "count": one.count + other.count,
            "ranks": tuple(sorted({*one.ranks, *other.ranks})),
            "steps": tuple(sorted({*one.steps, *other.steps})),
            "cases": {**one.cases, **other.cases},
        }
    )


def _largest(held: Sequence[Held]) -> Held:
    fields = Held.model_fields
    return Held(**{name: max((getattr(h, name) for h in held), default=0) for name in fields})


# ---- text


def text(report: Report, full: bool = False) -> Iterator[str]:
    """The report as lines for a terminal, worst first; `full` adds callers and the rest of the names."""
    yield from summary(report)
    yield from _held_text(report.held)
    for race in report.races:
        yield ""
        yield from _race_text(race, full, report.schedules_tried > 0)


def summary(report: Report) -> Iterator[str]:
    """What became of the program, where that is not well, and what was found in as much of it as ran."""
    if report.problems:
        when = f"after {_many(report.steps, 'step')}" if report.steps else "before its first training step"
        yield f"{report.program} FAILED {when}: {report.problems[0]}"
        yield from (f"problem: {problem}" for problem in report.problems[1:])
    yield f"{'until then, ' if report.problems else ''}{_ran(report)}: {_found(report)}"


def _ran(report: Report) -> str:
    steps = [] if report.steps is None else [_many(report.steps, "step")]
    return ", ".join([report.program, _many(report.ranks, "rank"), *steps, _many(report.ops, "op")])


def _found(report: Report) -> str:
    if not report.ops:
        return "nothing ran, so nothing was analysed"
    kinds = Counter[str](race.kind for race in report.races)
    found = ", ".join(f"{kinds[kind]} {word}" for kind, word in _WORDS.items() if kinds[kind])
    return found or "no unordered accesses"


def _many(count: int, thing: str) -> str:
    return f"{count} {thing}{'' if count == 1 else 's'}"


def _held_text(held: Held) -> Iterator[str]:
    yield (
        f"the analysis held at most {held.accesses_peak} accesses to {held.storages_peak} storages and "
        f"{held.events_peak} events a rank"
    )
    if held.accesses_forgotten:
        yield f"{held.accesses_forgotten} accesses were forgotten for want of room: a race with them would be missed"


_WORDS = {
    "race": "unordered pair(s) of lines",
    "freed-in-use": "freed while in use",
    "unwritten-read": "read(s) of unwritten memory",
}
_TITLES = {
    "race": "RACE",
    "freed-in-use": "FREED WHILE IN USE",
    "unwritten-read": "READ OF UNWRITTEN MEMORY",
}


def _race_text(race: Race, full: bool, searched: bool) -> Iterator[str]:
    names = list(race.names)
    shown = ", ".join(names if full else names[:3]) + (" …" if len(names) > 3 and not full else "")
    yield f"{_TITLES[race.kind]} {race.id} ×{race.count} on {ranks_text(race.ranks)}: {shown}"
    if race.label:
        yield f"  known as {race.label}: {LABELS[race.label]}"
    for access in (race.first,) if race.kind == "unwritten-read" else (race.first, race.second):
        yield f"  {access.access} {access.op} on {access.stream}, bytes {access.low}–{access.high - 1}"
        for place in access.site if full else access.site[:2]:
            yield f"      {place}"
            if place.code:
                yield f"          {place.code}"
    if race.effect:
        yield f"  {effect_text(race.effect)}"
        yield from (f"    {line}" for line in race.effect.story)
    elif searched:
        reason = (
            "the budget of races was spent" if race.kind == "race" else "only unordered pairs can be swapped"
        )
        yield f"  effect: not searched ({reason})"


def effect_text(effect: Effect) -> str:
    replay = f"; replay: hpz race --replay {effect.replay}" if effect.replay else ""
    if not effect.found and effect.also:
        return (
            f"effect: none found of these accesses alone in {effect.schedules} schedules; the program's values change "
            f"under {', '.join(effect.also)}{replay}"
        )
    if not effect.found:
        return f"effect: none found in the budget ({effect.schedules} schedules)"
    return f"effect: {effect.changed} under {effect.schedule}{replay}"


def ranks_text(ranks: Sequence[int]) -> str:
    """`rank 2`, `ranks 0–3` or `ranks 0, 2`."""
    if len(ranks) == 1:
        return f"rank {ranks[0]}"
    if list(ranks) == list(range(ranks[0], ranks[-1] + 1)):
        return f"ranks {ranks[0]}–{ranks[-1]}"
    return f"ranks {', '.join(map(str, ranks))}"


def with_effects(report: Report, effects: Mapping[str, Effect], schedules: int) -> Report:
    """The report with what exploration found for each race id."""
    races = tuple(
        race.model_copy(update={"effect": effects[race.id]}) if race.id in effects else race
        for race in report.races
    )
    return report.model_copy(update={"races": races, "schedules_tried": schedules})


def json_schema() -> dict[str, Any]:
    return Report.model_json_schema()


if __name__ == "__main__":
    print(json.dumps(json_schema(), indent=1))
