"""`hpz submit`, `status`, `watch` and `cancel`: a study's life on SLURM."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from harness.budget import check_fits
from harness.cli.console import wide_console
from harness.cli.options import JsonOption, ResultsOption, StudyArgument, results_folder
from harness.cli.site import submit_there
from harness.launch.slurm.arrays import Submission, Submitted, pair_groups
from harness.launch.slurm.clients import Clients
from harness.launch.slurm.profile import load_profile
from harness.launch.slurm.script import render
from harness.launch.slurm.status import Row, count_states, study_rows
from harness.launch.slurm.submit import cancel as cancel_jobs
from harness.launch.slurm.submit import plan_submissions, submission_of
from harness.launch.slurm.submit import submit as submit_study
from harness.study import Study, check_corpus, check_weights, load_study, save_study
from harness.system.errors import RunFailed

WATCH_SECONDS = 1.0  # between looks at the runs' files; the scheduler is asked less often
COLOURS = {"done": "green", "running": "cyan", "stalled": "red", "failed": "red", "out-of-memory": "red"}

ClusterOption = Annotated[
    Path, typer.Option("--cluster", help="A profile, as slurm/clusters/generic-8gpu.yaml.")
]
DryOption = Annotated[
    bool, typer.Option("--dry-run", help="Print the batch scripts; send and write nothing.")
]


def submit(
    study_file: StudyArgument,
    cluster: ClusterOption,
    results: ResultsOption = None,
    dry_run: DryOption = False,
    as_json: JsonOption = False,
) -> None:
    """Send what is missing or failed to SLURM. Example: hpz submit STUDY --cluster slurm/clusters/generic-8gpu.yaml"""
    study, profile = load_study(study_file), load_profile(cluster)
    folder = results_folder(study_file, study, results)
    check_fits(study.runs, study.gpu)
    if dry_run:
        for planned in plan_submissions(study, folder, profile, None):
            _print_script(planned, render(planned, profile))
        return
    if profile.site:
        submit_there(study, folder, profile, study_file, cluster)
    check_weights(study)
    check_corpus(study)
    save_study(study, folder)
    if profile.container and (missing := profile.container.missing()):
        print(missing, file=sys.stderr)
    sent = submit_study(study, folder, profile, say=lambda sentence: print(sentence, file=sys.stderr))
    if as_json:
        print(json.dumps([_submitted_row(submitted) for submitted in sent]))
        return
    for submitted in sent:
        tasks, runs = len(submitted.tasks), sum(len(task.runs) for task in submitted.tasks)
        print(f"job {submitted.job_id}: {tasks} pair groups, {runs} runs ({submitted.folder}/submit.sbatch)")
    if not sent:
        print(f"Nothing to submit: all {len(pair_groups(study.runs))} pair groups are done or in the queue.")
    else:
        print(f"Look on with: hpz watch {folder}")


def _print_script(planned: Submission, text: str) -> None:
    print(f"# {planned.script}\n{text}\n# {planned.folder}/tasks.jsonl")
    for index, task in enumerate(planned.tasks):
        print(f"# {index}: {task.group}: {' '.join(task.runs)}")


def _submitted_row(submitted: Submitted) -> dict[str, object]:
    runs = [run for task in submitted.tasks for run in task.runs]
    return {
        "job_id": submitted.job_id,
        "folder": str(submitted.folder),
        "tasks": len(submitted.tasks),
        "runs": runs,
    }


def status(study_file: StudyArgument, results: ResultsOption = None, as_json: JsonOption = False) -> None:
    """Show each run's state, step and place. Example: hpz status results/slow-link"""
    study = load_study(study_file)
    rows, problem = study_rows(study, results_folder(study_file, study, results))
    if as_json:
        print(
            json.dumps(
                {"problem": problem, "counts": count_states(rows), "runs": [asdict(row) for row in rows]}
            )
        )
        return
    wide_console().print(status_table(rows, problem))


def watch(study_file: StudyArgument, results: ResultsOption = None) -> None:
    """Follow a study until none of its runs can go on. Example: hpz watch results/slow-link"""
    study = load_study(study_file)
    folder, console = results_folder(study_file, study, results), Console()
    follow = _watch_live if console.is_terminal else _watch_lines
    rows = follow(study, folder, console)
    unfinished = [row for row in rows if row.state != "done"]
    if unfinished:
        first = unfinished[0]
        raise RunFailed(
            f"{len(unfinished)} of {len(rows)} runs did not finish; {first.run_id}: {first.state}: {first.why}"
        )


def _watch_live(study: Study, folder: Path, console: Console) -> list[Row]:
    with Live(console=console, refresh_per_second=2, vertical_overflow="crop") as live:
        while True:
            rows, problem = study_rows(study, folder)
            live.update(status_table(rows, problem, height=console.height - 6))
            if not any(_may_go_on(row) for row in rows):
                return rows
            time.sleep(WATCH_SECONDS)


def _watch_lines(study: Study, folder: Path, console: Console) -> list[Row]:
    before: dict[str, str] = {}
    while True:
        rows, _ = study_rows(study, folder)
        for row in rows:
            if before.get(row.run_id) != row.state:
                why = f": {row.why}" if row.why else ""
                line = f"{row.run_id}  {row.state}  {row.step}/{row.steps}{why}"
                console.print(line, highlight=False, markup=False, soft_wrap=True)
        before = {row.run_id: row.state for row in rows}
        if not any(_may_go_on(row) for row in rows):
            return rows
        time.sleep(WATCH_SECONDS)


def _may_go_on(row: Row) -> bool:
    return row.state in ("queued", "waiting", "running", "stalled", "preempted")


def status_table(rows: list[Row], problem: str | None, height: int | None = None) -> RenderableType:
    """The runs as a table; those that are at work come first where not all fit into `height` lines."""
    counts = ", ".join(f"{count} {state}" for state, count in count_states(rows).items())
    table = Table(title=counts)
    for column in ("run", "state", "step", "job", "nodes", "why"):
        table.add_column(column, overflow="fold")
    shown = rows
    if height is not None and len(rows) > height:
        shown = sorted(rows, key=lambda row: (row.state == "done", not _may_go_on(row)))[: max(height, 1)]
    for row in shown:
        state = Text(row.state, style=COLOURS.get(row.state, ""))
        table.add_row(row.run_id, state, f"{row.step}/{row.steps}", row.job or "", row.nodes, Text(row.why))
    return Group(table, Text(f"SLURM could not be asked: {problem}", style="yellow")) if problem else table


def cancel(
    what: Annotated[
        str, typer.Argument(metavar="STUDY|JOB", help="A study, its results folder, or a job id.")
    ],
    results: ResultsOption = None,
) -> None:
    """Cancel a study's jobs, or one job or array task. Examples: hpz cancel results/slow-link; hpz cancel 1234_5"""
    if what.replace("_", "", 1).isdigit():
        folders = [results] if results else sorted(Path("results").glob("*"))
        submitted = submission_of(what, folders)
        Clients.of(submitted.profile).scancel(what)
        print(f"job {what} cancelled")
        return
    study = load_study(what)
    folder = results_folder(Path(what), study, results)
    jobs = cancel_jobs(folder)
    print(f"cancelled: {', '.join(jobs)}" if jobs else f"nothing of {folder} is in the queue")
