"""Runs both sides of every fault of a corpus: the analysis of both, and a search for the schedule that shows the one.

What a pair gave stays in its folder (pair.json), so that a corpus that was stopped goes on.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from harness.race.effects import what_changed
from harness.race.explore import differs, explore
from harness.race.fault import Case, Side
from harness.race.fault_pairs import NotHere, Pair, Pairs, Shown, order_of, per_step, silent
from harness.race.investigate import Say, Settings, analysed, conclude, saying
from harness.race.job import Job, Outcome, Program
from harness.race.launch import Ranks
from harness.race.repeat import Run, repeated
from harness.race.report import Race, Report
from harness.record.provenance import package_versions
from harness.system.errors import HarnessError, RunFailed
from harness.system.whole_file import write_json

Key = Literal["has", "ended"]
LANES = 2  # warm processes at a time


@dataclass(frozen=True)
class Task:
    """One side of one fault."""

    case: Case
    key: Key

    @property
    def side(self) -> Side:
        side = self.case.fault.has if self.key == "has" else self.case.fault.ended
        assert side is not None
        return side

    @property
    def program(self) -> Program:
        return self.case.program(self.side)


def race_corpus(cases: Sequence[Case], folder: Path, settings: Settings, quiet: bool = False) -> Pairs:
    """Run every fault that has not been run as it stands; writes `folder`/corpus.json. Raises HarnessError."""
    started = time.monotonic()
    say = saying(quiet)
    here = [case for case in cases if case.fault.not_here is None]
    asked = {case.name: asked_of(case, settings) for case in here}
    todo = [case for case in here if not stands(pair_of(folder, case), asked[case.name])]
    if len(todo) < len(here):
        say(f"{len(here) - len(todo)} of {len(here)} pairs were run before")
    Sides(folder, settings, asked, todo, say).run()
    pairs = [pair for case in here if (pair := pair_of(folder, case)) is not None]
    result = Pairs(
        pairs=tuple(sorted(pairs, key=order_of)),
        not_here=tuple(not_here(case) for case in cases if case.fault.not_here is not None),
        versions=package_versions(),
        seconds=round(time.monotonic() - started, 1),
        asked=len(todo),
    )
    write_json(folder / "corpus.json", result.model_dump(mode="json"))
    return result


def not_here(case: Case) -> NotHere:
    fault = case.fault
    return NotHere(
        name=case.name, kind=fault.kind, fault=fault.fault, links=fault.links, why=fault.not_here or ""
    )


def asked_of(case: Case, settings: Settings) -> str:
    """A digest of what a pair is asked: its file, its program, how far is searched, and with which packages."""
    fault = case.fault
    files = [fault.program, *(side.patch for side in (fault.has, fault.ended) if side and side.patch)]
    content = [
        fault.model_dump(mode="json"),
        [(case.folder / file).read_text() for file in files],
        asdict(settings.budget) if settings.budget else None,
        package_versions(),
    ]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


def pair_file(folder: Path, case: Case) -> Path:
    return folder / case.name / "pair.json"


def pair_of(folder: Path, case: Case) -> Pair | None:
    """What a pair gave; None where it was never run to its end."""
    file = pair_file(folder, case)
    return Pair.model_validate_json(file.read_text()) if file.exists() else None


def stands(pair: Pair | None, asked: str) -> bool:
    """Whether a pair need not be run again: the same was asked, and it was found and clean."""
    return pair is not None and pair.asked == asked and pair.good


class Sides:
    """Runs the sides of the pairs, one warm process for each DeepSpeed, several lanes side by side."""

    def __init__(
        self, folder: Path, settings: Settings, asked: dict[str, str], cases: Sequence[Case], say: Say
    ) -> None:
        self.folder, self.settings, self.asked, self.say = folder, settings, asked, say
        self.tasks = [Task(case, key) for case in cases for key in ("has", "ended")]
        self.cases = len(cases)
        self.lock, self.stopped = threading.Lock(), False
        self.done: defaultdict[str, dict[Key, tuple[Report, Shown | None]]] = defaultdict(dict)

    def run(self) -> None:
        """Those with most to do first, so that the lanes end together."""
        groups: defaultdict[tuple[str, str, str], list[Task]] = defaultdict(list)
        for task in self.tasks:
            groups[task.side.release, task.side.patched.name, task.side.patch or ""].append(task)
        with ThreadPoolExecutor(LANES) as pool:
            try:
                for _ in pool.map(self._share, sorted(groups.values(), key=len, reverse=True)):
                    pass
            except BaseException:  # Ctrl-C, too: the lanes end after the side that they are at
                self.stopped = True
                raise

    def _share(self, tasks: Sequence[Task]) -> None:
        try:
            ranks = Ranks.of(tasks[0].program)
        except HarnessError as error:  # of a release that cannot be had; no other fault suffers
            for task in tasks:
                self._one(task, partial(failed, str(error)), 0.0)
            return
        with ranks:
            for task in tasks:
                if not self.stopped:
                    self._one(task, partial(attempted, ranks, self.settings.timeout), ranks.imports)

    def _one(self, task: Task, run: Run, imports: float) -> None:
        """Analyse a side; `imports` is what the warm process took before, unknown to the first, whose time holds it."""
        started, budget = time.monotonic(), self.settings.budget
        job = Job(task.program, every=budget is not None and budget.mode == "exhaustive")
        outcome = run(job)
        report, shown = analysed(job, outcome), None
        if task.key == "has":
            folder = self.folder / task.case.name
            folder.mkdir(parents=True, exist_ok=True)
            write_json(folder / "races.json", report.model_dump(mode="json"))
            shown = shown_by(task, job, outcome, report, run, self.settings, folder)
            if shown.changed is not None:
                seconds = time.monotonic() - started + imports
                shown = shown.model_copy(update={"seconds": round(seconds, 1)})
        self._keep(task, report, shown)

    def _keep(self, task: Task, report: Report, shown: Shown | None) -> None:
        """Once both sides are there, the pair is written."""
        case, fault = task.case, task.case.fault
        with self.lock:
            sides = self.done[case.name]
            sides[task.key] = report, shown
            if len(sides) < 2:
                return
            before, has = sides["has"]
            assert has is not None
            pair = Pair(
                name=case.name,
                kind=fault.kind,
                fault=fault.fault,
                links=fault.links,
                note=fault.note,
                has=has,
                ended=silent(case, sides["ended"][0]),
                host_waits=per_step(before, "host-wait"),
                stream_waits=per_step(before, "stream-wait"),
                asked=self.asked[case.name],
            )
            write_json(pair_file(self.folder, case), pair.model_dump(mode="json"))
            ended = sum(len(sides) == 2 for sides in self.done.values())
            self.say(f"[{ended}/{self.cases}] {case.name}: {pair.has.verdict}, {pair.ended.verdict}")


def attempted(ranks: Ranks, timeout: float, job: Job) -> Outcome:
    """Run a job; one that is refused has its sentence as its problem."""
    try:
        return ranks.run(job, timeout)
    except (HarnessError, RunFailed) as error:
        return failed(str(error), job)


def failed(why: str, job: Job) -> Outcome:
    """The outcome of a job that could not be run."""
    return Outcome((), why)


def shown_by(
    task: Task,
    job: Job,
    outcome: Outcome,
    report: Report,
    run: Run,
    settings: Settings,
    folder: Path,
) -> Shown:
    """Whether the side that has the fault showed it: the report that is wanted, and the schedule that is promised."""
    fault = task.case.fault
    assert fault.find is not None
    met = [race for race in report.races if fault.find.is_met_by(race)]
    if not met:
        return missed(task, report.problems[0] if report.problems else elsewhere(report))
    met.sort(key=lambda race: race.count, reverse=True)
    shown = Shown(
        release=str(task.side), verdict="found", first=met[0].first.place, second=met[0].second.place
    )
    if settings.budget is None:
        return shown
    if fault.find.kind == "unwritten-read":
        shown = poisoned(shown, job, run)
    else:
        bits, job, outcome = repeated(job, outcome, run)
        if not bits.repeatable:
            return missed(task, f"the same schedule gives other values each time, first at {bits.differs_at}")
        for wanted in (met[:1], met[1:]):  # one is enough to show what the fault does
            if wanted and shown.changed is None:
                search = explore(wanted, outcome, job, run, settings.budget)
                shown = best_of(conclude(report, search, folder), wanted, shown, folder)
    if fault.shows == "none" or promised(fault.shows, shown.changed):
        return shown
    why = f"shows {shown.changed or 'no effect'} in {shown.schedules} schedules, where it is said to show {fault.shows}"
    return shown.model_copy(update={"verdict": "missed", "why": why})


def missed(task: Task, why: str) -> Shown:
    return Shown(release=str(task.side), verdict="missed", why=why)


def elsewhere(report: Report) -> str:
    """What was reported in place of what is wanted."""
    places = [f"{race.kind}: {race.first.place} / {race.second.place}" for race in report.races]
    return f"reported instead: {'; '.join(places[:3])}" if places else "nothing is reported"


def promised(shows: str, changed: str | None) -> bool:
    """Whether what changed is what the file says."""
    if changed is None:
        return False
    return changed.startswith("the program fails") == (shows == "failure")


def best_of(report: Report, met: Sequence[Race], shown: Shown, folder: Path) -> Shown:
    """With the effect of the wanted races: of several, one that was found."""
    wanted = {race.id for race in met}
    searched = [race for race in report.races if race.id in wanted and race.effect is not None]
    found = [race for race in searched if race.effect and race.effect.found]
    if not found:
        return shown.model_copy(update={"schedules": shown.schedules + report.schedules_tried})
    race = found[0]
    effect = race.effect
    assert effect is not None and effect.replay is not None
    return shown.model_copy(
        update={
            "first": race.first.place,
            "second": race.second.place,
            "changed": effect.changed,
            "decisions": effect.decisions,
            "schedules": shown.schedules + report.schedules_tried,
            "replay": Path(effect.replay).relative_to(folder.parent).as_posix(),
        }
    )


def poisoned(shown: Shown, job: Job, run: Run) -> Shown:
    """Memory that nobody wrote shows in the order of issue: other garbage, other values."""
    reference, other = run(job.under("eager")), run(job.under("eager", poison="pattern"))
    changed = what_changed(reference, other) if differs(reference, other) else None
    return shown.model_copy(update={"changed": changed, "schedules": 2})
