"""From the analysis of one rank to its report, and from the reports of all ranks to one."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from harness.race.findings import HOST, Finding, Mark, Side
from harness.race.happens_before import Analysis
from harness.race.report import (
    HOST_STREAM,
    Access,
    Cost,
    Coverage,
    Effect,
    Held,
    Instance,
    Place,
    Race,
    RankReport,
    Report,
    Trace,
    Unseen,
    label_of,
)

NOTHING = Coverage()


def rank_report(
    rank: int,
    analysis: Analysis,
    streams: Mapping[int, str],
    coverage: Coverage = NOTHING,
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
            events_peak=analysis.clocks.events_peak,
        ),
        coverage=coverage,
        digest=digest,
        problem=problem,
    )


def stream_name(streams: Mapping[int, str], stream: int) -> str:
    if stream > HOST:
        return streams.get(stream, f"stream {stream}")
    return HOST_STREAM if stream == HOST else f"{HOST_STREAM} thread {1 + HOST - stream}"


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
        takeover=None if finding.takeover is None else _access(finding.takeover, streams),
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


def _worst_first(race: Race) -> tuple[object, ...]:
    """By kind and count, then as the program met them."""
    order = {"race": 0, "freed-in-use": 1, "unwritten-read": 2}
    met = min(((case.second, case.first) for cases in race.cases.values() for case in cases), default=(0, 0))
    return (order[race.kind], -race.count, *met, race.first.access, race.second.access, race.id)


def merge(reports: Sequence[RankReport], program: str, **settings: Any) -> Report:
    """One report of all ranks: the same pair of lines is one race, with its ranks and counts added."""
    merged: dict[str, Race] = {}
    for race in (race for report in reports for race in report.races):
        merged[race.id] = _join(merged[race.id], race) if race.id in merged else race
    return Report(
        program=program,
        ranks=len(reports),
        ops=sum(report.ops for report in reports),
        steps=min((report.steps for report in reports if report.steps is not None), default=None),
        races=tuple(sorted(merged.values(), key=_worst_first)),
        costs=next((report.costs for report in reports if report.rank == 0), ()),
        held=_largest([report.held for report in reports]),
        coverage=_all([report.coverage for report in reports]),
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


def _all(parts: Sequence[Coverage]) -> Coverage:
    """What all ranks saw together, and what none of them did."""
    unseen: Counter[tuple[str, Place | None]] = Counter()
    for one in (one for part in parts for one in part.unseen):
        unseen[one.what, one.place] += one.count
    return Coverage(
        device_ops=sum(part.device_ops for part in parts),
        host_accesses=sum(part.host_accesses for part in parts),
        collectives=sum(part.collectives for part in parts),
        streams=max((part.streams for part in parts), default=0),
        host_threads=max((part.host_threads for part in parts), default=1),
        unseen=tuple(
            Unseen(what=what, place=place, count=count) for (what, place), count in unseen.most_common()
        ),
        native=tuple(sorted({name for part in parts for name in part.native})),
    )


def with_effects(report: Report, effects: Mapping[str, Effect], schedules: int) -> Report:
    """The report with what exploration found for each race id."""
    races = tuple(
        race.model_copy(update={"effect": effects[race.id]}) if race.id in effects else race
        for race in report.races
    )
    return report.model_copy(update={"races": races, "schedules_tried": schedules})
