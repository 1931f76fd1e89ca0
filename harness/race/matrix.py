"""Analyses every run of a study and puts the answers side by side: which fault where, and what ordering costs there.

Each run's report stays in its run directory (races.json), so that a study that was stopped goes on. Schedules are
searched once for each kind of fault and release, in the first run that shows it. The study's own races.json is a
`Matrix`; its JSON Schema stands in race-matrix.schema.json beside this module.
"""

from __future__ import annotations

import json
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from typing import Any, Literal, TypeVar

from rich.console import Console
from rich.table import Table

from harness.race.explore import explore
from harness.race.investigate import Settings, analysed, conclude, settings_of
from harness.race.job import Job, Outcome, Program
from harness.race.launch import Ranks
from harness.race.report import Cost, Effect, Frozen, Race, Report
from harness.record import RunDirectory
from harness.study import Run, Study, save_study
from harness.system.whole_file import write_json

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


Say = Callable[[str], None]


def race_study(study: Study, folder: Path, settings: Settings, steps: int, quiet: bool = False) -> Matrix:
    """Analyse every run of `study`; writes `folder`/races.json and each run's own. Raises HarnessError."""
    started = time.monotonic()
    save_study(study, folder)
    console = Console(stderr=True)

    def say(line: str) -> None:
        if not quiet:
            console.print(line, highlight=False, markup=False, soft_wrap=True)

    analysed = Analyses(study, folder, settings, steps, say).run()
    reports = {run.run_id: load_report(folder, run) for run in study.runs}
    faults = tuple(search_faults(study, folder, reports, settings, steps, say))
    rows = tuple(row_of(run, reports[run.run_id]) for run in study.runs)
    seconds = round(time.monotonic() - started, 1)
    matrix = Matrix(
        study=study.name,
        question=study.question,
        rows=rows,
        faults=faults,
        costs=tuple(line_costs(study.runs, reports)),
        seconds=seconds,
        analysed=analysed,
    )
    write_json(folder / "races.json", matrix.model_dump(mode="json"))
    return matrix


def report_file(folder: Path, run: Run) -> Path:
    return RunDirectory(folder / "runs" / run.run_id).races_file


def load_report(folder: Path, run: Run) -> Report:
    return Report.model_validate_json(report_file(folder, run).read_text())


def analysed_before(folder: Path, run: Run, steps: int) -> bool:
    """Whether a report of the same analysis is there that tells of no failure."""
    if not report_file(folder, run).exists():
        return False
    report, asked = load_report(folder, run), settings_of(Job(Program.of_run(run, steps)))
    return not report.problems and all(report.settings.get(name) == asked[name] for name in asked)


class Analyses:
    """Runs what has no report yet, several lanes side by side, one warm process for each lane and overlay."""

    def __init__(self, study: Study, folder: Path, settings: Settings, steps: int, say: Say) -> None:
        self.study, self.folder, self.settings, self.steps, self.say = study, folder, settings, steps, say
        self.lock, self.ended, self.started = threading.Lock(), 0, time.monotonic()
        self.stopped = False

    def run(self) -> int:
        """Analyse what is missing; returns how many runs that were."""
        todo = [run for run in self.study.runs if not analysed_before(self.folder, run, self.steps)]
        self.ended = len(self.study.runs) - len(todo)
        if self.ended:
            self.say(f"{self.ended} of {len(self.study.runs)} runs were analysed before")
        lanes = self.study.launch.lanes or 2
        with ThreadPoolExecutor(lanes) as pool:
            try:
                for _ in pool.map(self._share, by_overlay(todo)):
                    pass
            except BaseException:  # Ctrl-C, too: the lanes end after the run that they are at
                self.stopped = True
                raise
        return len(todo)

    def _share(self, runs: Sequence[Run]) -> None:
        with Ranks(Program.of_run(runs[0]).overlay, transformers=True) as ranks:
            for run in runs:
                if not self.stopped:
                    self._one(run, ranks)

    def _one(self, run: Run, ranks: Ranks) -> None:
        job = Job(Program.of_run(run, self.steps))
        report = analysed(job, ranks.run(job, self.settings.timeout))
        directory = RunDirectory(self.folder / "runs" / run.run_id)
        directory.create(run)
        write_json(directory.races_file, report.model_dump(mode="json"))
        with self.lock:
            self.ended += 1
            row, elapsed = row_of(run, report), time.monotonic() - self.started
            found = ", ".join(row.faults) or "clean"
            self.say(
                f"[{self.ended}/{len(self.study.runs)}] {elapsed:6.1f} s  {run.run_id}  {row.problem or found}"
            )


def by_overlay(runs: Sequence[Run]) -> Iterator[list[Run]]:
    for _, group in grouped(runs, lambda run: (run.release, run.variant)):
        yield group


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


def search_faults(
    study: Study, folder: Path, reports: dict[str, Report], settings: Settings, steps: int, say: Say
) -> Iterator[Fault]:
    """Search schedules for each fault of each release in the first run that shows it."""
    seen: dict[tuple[str, str], tuple[str, str]] = {}
    for run in study.runs:
        report = reports[run.run_id]
        fresh = {
            race.label or race.id
            for race in report.races
            if race.kind == "race" and (run.release, race.label or race.id) not in seen
        }
        if not fresh or settings.budget is None:
            continue
        say(f"searching schedules for {', '.join(sorted(fresh))} of DeepSpeed {run.release}")
        chosen = [one_of(name, report) for name in sorted(fresh)]
        report = reports[run.run_id] = searched(run, chosen, report, folder, settings, steps)
        for name in sorted(fresh):
            seen[run.release, name] = run.run_id, name
            yield fault_of(name, run, report, report_file(folder, run))


def one_of(name: str, report: Report) -> Race:
    """The most frequent race of that label or id: one is enough to show the fault's effect."""
    return max(
        (race for race in report.races if (race.label or race.id) == name), key=lambda race: race.count
    )


def searched(
    run: Run, races: Sequence[Race], report: Report, folder: Path, settings: Settings, steps: int
) -> Report:
    """The report with the effects of these races; searched once, then kept in the run's races.json."""
    assert settings.budget is not None
    job, budget = Job(Program.of_run(run, steps)), settings.budget
    if report.schedules_tried and report.settings.get("budget") == asdict(budget):
        return report
    with Ranks(job.program.overlay, transformers=True) as ranks:

        def execute(job: Job) -> Outcome:
            return ranks.run(job, settings.timeout)

        search = explore(races, execute(job.under("eager")), job, execute, budget)
        report = conclude(report, search, report_file(folder, run).parent)
    report = report.model_copy(update={"settings": {**report.settings, "budget": asdict(budget)}})
    write_json(report_file(folder, run), report.model_dump(mode="json"))
    return report


def fault_of(name: str, run: Run, report: Report, file: Path) -> Fault:
    """The effect of the race of that name; of several, one that was found."""
    effects = [race.effect for race in report.races if (race.label or race.id) == name and race.effect]
    best = next((effect for effect in effects if effect.found), None)
    effect = best or (effects[0] if effects else Effect(found=False, schedules=report.schedules_tried))
    return Fault(name=name, release=run.release, run_id=run.run_id, report=str(file), effect=effect)


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


# ---- the table


def print_matrix(matrix: Matrix, console: Console) -> None:
    """One line for each release, variant and overlap, with how many of its settings show which fault."""
    table = Table(
        title=f"{matrix.study}: {len(matrix.rows)} runs, {matrix.analysed} of them analysed in these "
        f"{matrix.seconds:.0f} s (evidence: virtual-device)"
    )
    for column in (
        "release",
        "variant",
        "overlap",
        "runs",
        "unordered accesses found in",
        "host waits",
        "events",
        "stream waits",
    ):
        table.add_column(column, overflow="fold")
    for cells in table_rows(matrix.rows):
        table.add_row(*cells)
    console.print(table)
    for fault in matrix.faults:
        effect = fault.effect
        what = effect.changed if effect.found else f"no effect found in {effect.schedules} schedules"
        replay = f"  hpz race --replay {effect.replay}" if effect.replay else ""
        console.print(
            f"{fault.name} in {fault.release}: {what}{replay}", highlight=False, markup=False, soft_wrap=True
        )
    for line in cost_lines(matrix):
        console.print(line, highlight=False, markup=False, soft_wrap=True)


SHOWN_LINES = 4  # places of one variant that the terminal shows; races.json and the page have all


def cost_lines(matrix: Matrix) -> Iterator[str]:
    """Where the host waits in the newest release with overlap on, a line for each variant."""
    newest = max((cost.release for cost in matrix.costs), default="")
    waits = [
        cost
        for cost in matrix.costs
        if cost.release == newest and cost.overlap_comm and cost.kind == "host-wait" and cost.per_step
    ]
    if waits:
        yield f"Host waits a step by source line, DeepSpeed {newest}, overlap on (all: races.json, hpz report):"
    for variant, costs in grouped(waits, lambda cost: cost.variant):
        places = [f"{cost.place} ({cost.reason}) {cost.per_step:g}" for cost in costs]
        more = f"; and {len(places) - SHOWN_LINES} more places" if len(places) > SHOWN_LINES else ""
        yield f"  {variant}: {'; '.join(places[:SHOWN_LINES])}{more}"


def grouped(items: Iterable[T], key: Callable[[T], Any]) -> Iterator[tuple[Any, list[T]]]:
    """The items by their key, in its order."""
    for value, group in groupby(sorted(items, key=key), key=key):
        yield value, list(group)


def table_rows(rows: Sequence[Row]) -> Iterator[tuple[str, ...]]:
    for key, group in grouped(rows, lambda row: (row.release, row.variant, row.overlap_comm)):
        release, variant, overlap = key
        names = sorted({name for row in group for name in row.faults})
        counts = [f"{name} {sum(name in row.faults for row in group)}/{len(group)}" for name in names]
        broken = sum(row.problem is not None for row in group)
        counts += [f"did not run {broken}/{len(group)}"] if broken else []
        costs = [
            sum(getattr(row, name) for row in group) / len(group)
            for name in ("host_waits", "event_records", "stream_waits")
        ]
        yield (
            release,
            variant,
            "on" if overlap else "off",
            str(len(group)),
            "; ".join(counts) or "none",
            *(f"{cost:.1f}" for cost in costs),
        )


def json_schema() -> dict[str, Any]:
    return Matrix.model_json_schema()


if __name__ == "__main__":
    print(json.dumps(json_schema(), indent=1))
