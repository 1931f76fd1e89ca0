"""`hpz watch`: follows a study on SLURM, sends again what can go on, and tells a command what has ended."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.live import Live

from harness.cli.options import ResultsOption, StudyArgument, results_folder
from harness.cli.slurm import NotifyOption, status_table
from harness.launch.slurm.again import LIMIT, Again
from harness.launch.slurm.notify import Event, Kind, Notifier, run_event, study_event
from harness.launch.slurm.status import Row, study_rows
from harness.study import Study, load_study
from harness.system.errors import RunFailed

WATCH_SECONDS = 1.0  # between looks at the runs' files; the scheduler is asked less often
Show = Callable[[list[Row], str | None], None]

ResubmitOption = Annotated[
    bool,
    typer.Option(
        "--resubmit",
        help="Send again what SLURM ended and can go on (preempted and cancelled, driver or node lost, time limit), "
        "and what waits for room.",
    ),
]
LimitOption = Annotated[int, typer.Option(min=0, help="Times that --resubmit sends a pair group again.")]


def watch(
    study_file: StudyArgument,
    results: ResultsOption = None,
    resubmit: ResubmitOption = False,
    limit: LimitOption = LIMIT,
    notify: NotifyOption = None,
) -> None:
    """Follow a study until none of its runs can go on. Example: hpz watch results/slow-link --resubmit"""
    study = load_study(study_file)
    folder, console = results_folder(study_file, study, results), Console()

    def say(sentence: str) -> None:
        console.print(sentence, highlight=False, markup=False, soft_wrap=True)

    def say_and_tell(kind: Kind, sentence: str) -> None:
        say(sentence)
        notifier.tell(Event(kind, f"{study.name}: {sentence}", study.name, str(folder)))

    notifier = Notifier(notify, say)
    again = Again(study, folder, limit, say_and_tell) if resubmit else None
    with _shown_live(console) if console.is_terminal else _shown_in_lines(say) as show:
        rows = _follow(study, folder, _both(show, _told(study, folder, notifier)), again)
    notifier.tell(study_event(folder, study.name, (row.state for row in rows)))
    notifier.wait()
    unfinished = [row for row in rows if row.state != "done"]
    if unfinished:
        first = unfinished[0]
        raise RunFailed(
            f"{len(unfinished)} of {len(rows)} runs did not finish; {first.run_id}: {first.state}: {first.why}"
        )


def _follow(study: Study, folder: Path, show: Show, again: Again | None) -> list[Row]:
    """The rows as they are once none can go on and nothing is to be sent."""
    while True:
        rows, problem = study_rows(study, folder)
        show(rows, problem)
        to_come = again.look(rows) if again else False
        if not to_come and not any(row.may_go_on for row in rows):
            return rows
        time.sleep(WATCH_SECONDS)


def _told(study: Study, folder: Path, notifier: Notifier) -> Show:
    """Tells of each run that was going on at one look and has ended at the next."""
    going_on: set[str] = set()

    def show(rows: list[Row], problem: str | None) -> None:
        for row in rows:
            if row.run_id in going_on and not row.may_go_on:
                notifier.tell(run_event(folder, study.name, row.run_id, row.state, row.why))
        going_on.clear()
        going_on.update(row.run_id for row in rows if row.may_go_on)

    return show


def _both(first: Show, second: Show) -> Show:
    def show(rows: list[Row], problem: str | None) -> None:
        first(rows, problem)
        second(rows, problem)

    return show


@contextmanager
def _shown_live(console: Console) -> Iterator[Show]:
    with Live(console=console, refresh_per_second=2, vertical_overflow="crop") as live:
        yield lambda rows, problem: live.update(status_table(rows, problem, height=console.height - 6))


@contextmanager
def _shown_in_lines(say: Callable[[str], None]) -> Iterator[Show]:
    """A line for each run whose state has changed, or that has begun to wait for a slow rank, or ceased to."""
    before: dict[str, tuple[str, bool]] = {}

    def show(rows: list[Row], problem: str | None) -> None:
        for row in rows:
            if before.get(row.run_id) != (row.state, bool(row.slow)):
                said = "; ".join(filter(None, (row.why, f"slow: {row.slow}" if row.slow else "")))
                why = f": {said}" if said else ""
                say(f"{row.run_id}  {row.state}  {row.step}/{row.steps}{why}")
        before.update({row.run_id: (row.state, bool(row.slow)) for row in rows})

    yield show
