"""Analyses every run of a study and puts the answers side by side, as a `Matrix`.

Each run's report stays in its run directory (races.json), so that a study that was stopped goes on. Schedules are
searched for each kind of fault in the oldest and in the newest release that has it, in the first run that shows it.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from harness.race.explore import explore
from harness.race.investigate import (
    Say,
    Settings,
    analysed,
    conclude,
    saying,
    settings_of,
    what_was_searched,
    write_report,
)
from harness.race.job import Job, Outcome, Program
from harness.race.launch import Ranks
from harness.race.matrix import Fault, Matrix, grouped, line_costs, row_of
from harness.race.report import Effect, Race, Report
from harness.race.searched import Searched
from harness.record import RunDirectory
from harness.study import Run, Study, save_study
from harness.system.whole_file import write_json
from harness.variants import version_key


def race_study(study: Study, folder: Path, settings: Settings, steps: int, quiet: bool = False) -> Matrix:
    """Analyse every run of `study`; writes `folder`/races.json and each run's own. Raises HarnessError."""
    started = time.monotonic()
    save_study(study, folder)
    say = saying(quiet)
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
        write_report(directory.path, report)
        with self.lock:
            self.ended += 1
            row, elapsed = row_of(run, report), time.monotonic() - self.started
            found = ", ".join(row.faults) or "clean"
            self.say(
                f"[{self.ended}/{len(self.study.runs)}] {elapsed:6.1f} s  {run.run_id}  {row.problem or found}"
            )


def by_overlay(runs: Sequence[Run]) -> Iterator[list[Run]]:
    """Runs that share a warm process: of one release with the same patches, as ZeRO-3 and what was released."""
    for _, group in grouped(runs, lambda run: (run.release, *sorted(run.patches.items()))):
        yield group


def search_faults(
    study: Study, folder: Path, reports: dict[str, Report], settings: Settings, steps: int, say: Say
) -> Iterator[Fault]:
    """Search schedules for each fault in the first run that shows it, of the oldest and of the newest release."""
    ends = ends_of(study, reports)
    seen: dict[tuple[str, str], tuple[str, str]] = {}
    for run in study.runs:
        report = reports[run.run_id]
        shown = faults_in(report)
        fresh = {name for name in shown if run.release in ends[name] and (run.release, name) not in seen}
        if not fresh or settings.budget is None:
            continue
        say(f"searching schedules for {', '.join(sorted(fresh))} of DeepSpeed {run.release}")
        chosen = [one_of(name, report) for name in sorted(fresh)]
        report = reports[run.run_id] = searched(run, chosen, report, folder, settings, steps)
        for name in sorted(fresh):
            seen[run.release, name] = run.run_id, name
            yield fault_of(name, run, report, report_file(folder, run))


def ends_of(study: Study, reports: dict[str, Report]) -> dict[str, set[str]]:
    """Fault → the oldest and the newest release that show it."""
    releases: defaultdict[str, set[str]] = defaultdict(set)
    for run in study.runs:
        for name in faults_in(reports[run.run_id]):
            releases[name].add(run.release)
    return {name: {min(of, key=version_key), max(of, key=version_key)} for name, of in releases.items()}


def faults_in(report: Report) -> set[str]:
    """The races of a report by label, or by id where they have none."""
    return {race.label or race.id for race in report.races if race.kind == "race"}


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
    if report.schedules_tried and report.settings.get("budget") == budget.asked():
        return report
    with Ranks(job.program.overlay, transformers=True) as ranks:

        def execute(job: Job) -> Outcome:
            return ranks.run(job, settings.timeout)

        # Classes need every pair, and the bound of PCT how many ops there are: both take another analysis.
        first = (
            job.under("eager") if budget.mode == "named" else replace(job, every=budget.mode == "exhaustive")
        )
        search = explore(races, execute(first), job, execute, budget)
        report = conclude(report, search, report_file(folder, run).parent)
    report = report.model_copy(
        update={
            "settings": {**report.settings, "budget": budget.asked()},
            "search": what_was_searched(search, Searched()),
        }
    )
    write_report(report_file(folder, run).parent, report)
    return report


def fault_of(name: str, run: Run, report: Report, file: Path) -> Fault:
    """The effect of the race of that name; of several, one that was found."""
    effects = [race.effect for race in report.races if (race.label or race.id) == name and race.effect]
    best = next((effect for effect in effects if effect.found), None)
    effect = best or (effects[0] if effects else Effect(found=False, schedules=report.schedules_tried))
    return Fault(name=name, release=run.release, run_id=run.run_id, report=str(file), effect=effect)
