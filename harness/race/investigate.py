"""From a program to its report: analyse, search schedules, and leave a replay file and a picture for each race."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from harness.race.effects import effects, what_changed
from harness.race.explore import Budget, Found, Search, explore
from harness.race.job import Job, Outcome
from harness.race.launch import Ranks
from harness.race.merge import merge, with_effects
from harness.race.picture import picture
from harness.race.repeat import repeated
from harness.race.replay import write_replay
from harness.race.report import Effect, Race, Report
from harness.race.searched import Searched
from harness.race.story import cases_of, story
from harness.system.whole_file import write_json
from harness.words import counted

Say = Callable[[str], None]


def saying(quiet: bool) -> Say:
    """What tells of progress, on the error stream."""
    console = Console(stderr=True)

    def say(line: str) -> None:
        if not quiet:
            console.print(line, highlight=False, markup=False, soft_wrap=True)

    return say


@dataclass(frozen=True)
class Settings:
    """How a program is investigated."""

    budget: Budget | None = field(default_factory=Budget)  # None: analysis alone
    timeout: float = 600.0  # seconds for one execution


def investigate(
    job: Job, ranks: Ranks, folder: Path, settings: Settings, say: Say = lambda line: None
) -> Report:
    """Analyse a program on all its ranks and search for effects; writes races.json, replays and pictures to `folder`.

    Raises HarnessError where the program cannot run on the virtual device. One that fails is a problem in the report.
    """

    def run(job: Job) -> Outcome:
        return ranks.run(job, settings.timeout)

    began = ranks.started if not ranks.jobs else time.monotonic()
    if settings.budget is not None and settings.budget.mode == "exhaustive":
        job = replace(job, every=True)
    say(f"analysing {job.program.title} on {counted(job.program.ranks, 'rank')}")
    outcome = run(job)
    report = analysed(job, outcome)
    swapped = [*report.of_kind("race"), *report.of_kind("freed-in-use")]
    if settings.budget is not None and swapped and outcome.problem is None:
        say(f"{counted(len(swapped), 'finding')}; searching for schedules that change values")
        steps = job.program.steps
        job, outcome = in_its_loop(job, outcome, report, run)
        searched, job, outcome = repeated(job, outcome, run)
        if searched.repeatable:
            search = explore(report.races, outcome, job, run, settings.budget, began)
            report = conclude(report, search, folder)
            searched = what_was_searched(search, searched)
            if job.program.steps != steps:
                searched = searched.model_copy(update={"covered": "step"})
        report = report.model_copy(update={"search": searched})
    write_report(folder, report)
    return report


def write_report(folder: Path, report: Report) -> None:
    """Write races.json, and remove the replays and pictures of the one that it replaces."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "races.json"
    former: set[str] = set()
    with contextlib.suppress(OSError, ValueError):  # there is none, or it is none
        former = files_of(json.loads(file.read_text()))
    content = report.model_dump(mode="json")
    write_json(file, content)
    for name in former - files_of(content):
        (folder / name).unlink(missing_ok=True)


def files_of(report: Any) -> set[str]:
    """The names of the files that a report has beside it, see `conclude`; none of what is no report."""
    found: set[str] = set()
    for race in report.get("races", ()) if isinstance(report, dict) else ():
        effect = race.get("effect") or {}
        if effect.get("replay"):
            found |= {Path(effect["replay"]).name}
        if effect.get("found"):
            found |= {f"race-{race['id']}.svg"}
    return found


def in_its_loop(
    job: Job, outcome: Outcome, report: Report, run: Callable[[Job], Outcome]
) -> tuple[Job, Outcome]:
    """The same program as it ends after its last optimizer step, where its model is gone at its own end.

    A model that a function has made goes with it, and with it what a schedule could have changed. The program itself
    where that shows no more, or where a race is only met after the last step.
    """
    program = job.program
    if (
        outcome.covered == "values"
        or program.run is not None
        or program.steps is not None
        or not report.steps
    ):
        return job, outcome
    shorter = replace(job, program=replace(program, steps=report.steps))
    ended = run(shorter)
    if ended.problem is None and ended.covered == "values" and all(met(race, ended) for race in report.races):
        return shorter, ended
    return job, outcome


def met(race: Race, outcome: Outcome) -> bool:
    """Whether a case of it lies within what this execution has issued."""
    return any(case.second < outcome.issued[rank] for rank, cases in race.cases.items() for case in cases)


def what_was_searched(search: Search, searched: Searched) -> Searched:
    """The record of a search that has ended."""
    return searched.model_copy(
        update={
            "mode": search.budget.mode,
            "schedules": search.tried,
            "seconds_to_failure": search.seconds,
            "bound": search.bound,
            "classes": search.classes,
            "covered": search.reference.covered,
        }
    )


def analysed(job: Job, outcome: Outcome) -> Report:
    """The merged report of an analysed execution."""
    report = merge(outcome.reports, job.program.title, settings=settings_of(job))
    changes: dict[str, object] = {"ranks": job.program.ranks}  # one that failed may have left no report
    if job.program.run is not None:
        changes["steps"] = len(outcome.losses)
    if outcome.problem is not None:
        changes["problems"] = (*report.problems, outcome.problem)
    return report.model_copy(update=changes)


def settings_of(job: Job) -> dict[str, object]:
    program = job.program
    return {
        "release": program.release,
        "variant": program.variant,
        "poison": job.poison,
        "steps": program.run["training"]["steps"] if program.run else None,
        "arguments": list(program.arguments),
        "config": program.config,
    }


def conclude(report: Report, search: Search, folder: Path) -> Report:
    """Write a replay and a picture for each race that has an effect, and put all effects into the report.

    Where none of a race's pairs shows an effect but a named policy does, that policy's schedule is kept.
    """
    by_id = {race.id: race for race in report.races}
    concluded: dict[str, Effect] = {}
    for race, effect, found in effects(report, search):
        if found is None:
            concluded[race.id] = effect
        elif effect.found:
            concluded[race.id] = keep(race, effect, found, by_id, folder)
        else:
            involved = tuple(by_id[identity] for identity in found.races)
            file = folder / f"replay-{found.job.policy}.json"
            write_replay(file, found, involved, (what_changed(found.reference, found.outcome),))
            concluded[race.id] = effect.model_copy(update={"replay": str(file)})
    return with_effects(report, concluded, search.tried)


def keep(race: Race, effect: Effect, found: Found, races: dict[str, Race], folder: Path) -> Effect:
    """The effect with its story; its replay file and its picture are written."""
    involved = tuple(races[identity] for identity in found.races)
    told = tuple(story(involved, found.job.flips, effect))
    file = folder / f"replay-{race.id}.json"
    write_replay(file, found, involved, told)
    drawn = next((other for other in involved if cases_of(other, found.job.flips[0])), race)
    (folder / f"race-{race.id}.svg").write_text(
        picture(drawn, found.outcome.window, found.job.flips[0], found.outcome.order)
    )
    return effect.model_copy(update={"replay": str(file), "story": told})
