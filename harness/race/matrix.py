"""The race reports of a study's runs side by side: which fault where, and what ordering costs there.

The study's own races.json is a `Matrix`; its JSON Schema stands in race-matrix.schema.json beside this module.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, Literal, TypeVar

from harness.race.report import Cost, Effect, Report
from harness.race.searched import Frozen
from harness.study import Run

T = TypeVar("T")
SCHEMA_FILE = Path(__file__).with_name("race-matrix.schema.json")


class Row(Frozen):
    """One run of the study. Costs are per optimizer step on rank 0, start-up left out."""

    run_id: str
    model: str
    release: str
    variant: str
    shape: str
    overlap_comm: bool
    gradient_accumulation: int
    activation_checkpointing: bool
    throughput_timer: bool
    races: int  # pairs of lines
    cases: int  # unordered pairs of accesses, over all ranks
    labels: tuple[str, ...]  # faults known by name
    unnamed: tuple[str, ...]  # ids of all other findings
    last_step: dict[str, int]  # label or id → last step in which it was met
    steps: int
    host_waits: float
    event_records: float
    stream_waits: float
    problem: str | None = None

    @property
    def faults(self) -> tuple[str, ...]:
        return (*self.labels, *self.unnamed)


class LineCost(Frozen):
    """What ordering costs at one source line of one release, variant and overlap: a mean over its runs, on rank 0."""

    release: str
    variant: str
    overlap_comm: bool
    kind: Literal["host-wait", "event-record", "stream-wait"]
    reason: str  # of a host wait
    place: str
    per_step: float
    runs: int  # over which it is the mean


class Fault(Frozen):
    """One fault in one release: where it was searched for an effect, and what came of it."""

    name: str
    release: str
    run_id: str
    report: str  # the run's races.json, or the table that holds it
    effect: Effect


class Matrix(Frozen):
    """The content of a study's races.json."""

    schema_version: Literal[1] = 1
    kind: Literal["race matrix"] = "race matrix"
    study: str
    question: str
    rows: tuple[Row, ...]
    faults: tuple[Fault, ...]
    costs: tuple[LineCost, ...] = ()
    seconds: float  # of the last call
    analysed: int | None = None  # runs in the last call; the others were analysed before


def row_of(run: Run, report: Report) -> Row:
    """The run's line of the table."""
    training, steps = run.training, report.steps or 1
    named = {race.label or race.id: race for race in report.races}
    last = {
        name: max(race.steps[-1] for race in report.races if (race.label or race.id) == name and race.steps)
        for name in named
        if any(race.steps for race in report.races if (race.label or race.id) == name)
    }
    return Row(
        run_id=run.run_id,
        model=run.model,
        release=run.release,
        variant=run.variant,
        shape=str(run.shape),
        overlap_comm=training.overlap_comm,
        gradient_accumulation=training.gradient_accumulation,
        activation_checkpointing=training.activation_checkpointing,
        throughput_timer=training.throughput_timer,
        races=len(report.races),
        cases=sum(race.count for race in report.races),
        labels=tuple(sorted(report.labels)),
        unnamed=tuple(sorted(race.id for race in report.races if race.label is None)),
        last_step=last,
        steps=steps,
        host_waits=per_step(report.costs, "host-wait", steps),
        event_records=per_step(report.costs, "event-record", steps),
        stream_waits=per_step(report.costs, "stream-wait", steps),
        problem=report.problems[0] if report.problems else None,
    )


def per_step(costs: Sequence[Cost], kind: str, steps: int) -> float:
    return round(sum(cost.count for cost in costs if cost.kind == kind) / steps, 2)


def line_costs(runs: Sequence[Run], reports: Mapping[str, Report]) -> Iterator[LineCost]:
    """What ordering costs by source line, the most frequent of each release, variant and overlap first."""
    for key, group in grouped(runs, lambda run: (run.release, run.variant, run.training.overlap_comm)):
        ran = [report for run in group if (report := reports[run.run_id]).steps and not report.problems]
        total: defaultdict[tuple[Any, str, str], float] = defaultdict(float)
        for report in ran:
            for cost in report.costs:
                place = f"{cost.place}" if cost.place else "(no Python frame)"
                total[cost.kind, cost.reason, place] += cost.count / (report.steps or 1)
        release, variant, overlap = key
        for (kind, reason, place), times in sorted(total.items(), key=lambda item: -item[1]):
            yield LineCost(
                release=release,
                variant=variant,
                overlap_comm=overlap,
                kind=kind,
                reason=reason,
                place=place,
                per_step=round(times / len(ran), 2),
                runs=len(ran),
            )


def grouped(items: Iterable[T], key: Callable[[T], Any]) -> Iterator[tuple[Any, list[T]]]:
    """The items by their key, in its order."""
    for value, group in groupby(sorted(items, key=key), key=key):
        yield value, list(group)


def json_schema() -> dict[str, Any]:
    return Matrix.model_json_schema()
