"""`hpz submit`, `status` and `cancel`: a study's life on SLURM."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from harness.budget import check_fits
from harness.cli.console import wide_console
from harness.cli.hours import hours_table, known
from harness.cli.options import JsonOption, ResultsOption, StudyArgument, results_folder
from harness.cli.site import submit_there
from harness.launch.slurm.arrays import Submission, Submitted, pair_groups
from harness.launch.slurm.budget import check_budget
from harness.launch.slurm.cancel import cancel as cancel_jobs
from harness.launch.slurm.cancel import cancel_job
from harness.launch.slurm.checks import leaving_out, node_notes
from harness.launch.slurm.profile import load_profile, with_options
from harness.launch.slurm.script import render
from harness.launch.slurm.status import Row, count_states, study_rows
from harness.launch.slurm.submit import plan_submissions
from harness.launch.slurm.submit import submit as submit_study
from harness.launch.slurm.waiting import read_waiting
from harness.record.hours import study_hours
from harness.study import check_corpus, check_weights, load_study, save_study

COLOURS = {"done": "green", "running": "cyan", "stalled": "red", "failed": "red", "out-of-memory": "red"}

ClusterOption = Annotated[
    Path, typer.Option("--cluster", help="A profile, as slurm/clusters/generic-8gpu.yaml.")
]
DryOption = Annotated[
    bool, typer.Option("--dry-run", help="Print the batch scripts; send and write nothing.")
]
AfterOption = Annotated[
    list[str] | None,
    typer.Option(metavar="JOB", help="Wait for this job (1234 must end well; or afterany:1234)."),
]
BudgetOption = Annotated[
    float | None,
    typer.Option(
        metavar="HOURS",
        min=0,
        help="Send nothing beyond so many GPU-hours, counting what the study has used.",
    ),
]
NotifyOption = Annotated[
    str | None,
    typer.Option(
        metavar="COMMAND",
        help="Shell line to run when a run or the study ends or is sent again: JSON on its input, a sentence in "
        "$HPZ_TEXT.",
    ),
]


def submit(
    study_file: StudyArgument,
    cluster: ClusterOption,
    results: ResultsOption = None,
    after: AfterOption = None,
    budget: BudgetOption = None,
    notify: NotifyOption = None,
    dry_run: DryOption = False,
    as_json: JsonOption = False,
) -> None:
    """Send what is missing or failed to SLURM. Example: hpz submit STUDY --cluster slurm/clusters/generic-8gpu.yaml"""
    study = load_study(study_file)
    profile = with_options(load_profile(cluster), {"after": after, "budget": budget, "notify": notify})
    folder = results_folder(study_file, study, results)
    check_fits(study.runs, study.gpu)
    if dry_run:
        profile = leaving_out(profile, folder / "slurm")
        arrays = plan_submissions(study, folder, profile, None)
        check_budget(study, folder, profile, arrays, ())
        for planned in arrays:
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
    if not sent and read_waiting(folder) is None:
        print(f"Nothing to submit: all {len(pair_groups(study.runs))} pair groups are done or in the queue.")
    elif sent:
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
    folder = results_folder(study_file, study, results)
    rows, problem = study_rows(study, folder)
    hours, notes = study_hours(study, folder), node_notes(folder / "slurm")
    if as_json:
        content = {"problem": problem, "counts": count_states(rows), "runs": [asdict(row) for row in rows]}
        content |= {"hours": [asdict(row) for row in hours], "nodes": [asdict(note) for note in notes]}
        print(json.dumps(content))
        return
    console = wide_console()
    console.print(status_table(rows, problem))
    for note in notes:
        console.print(Text(note.sentence, style="yellow"))
    if known(hours):
        console.print(hours_table(hours))


def status_table(rows: list[Row], problem: str | None, height: int | None = None) -> RenderableType:
    """The runs as a table; those that are at work come first where not all fit into `height` lines."""
    counts = ", ".join(f"{count} {state}" for state, count in count_states(rows).items())
    table = Table(title=counts)
    slow = ["slow"] if any(row.slow for row in rows) else []
    for column in ("run", "state", "step", "job", "nodes", *slow, "why"):
        table.add_column(column, overflow="fold")
    shown = rows
    if height is not None and len(rows) > height:
        shown = sorted(rows, key=lambda row: (row.state == "done", not row.may_go_on))[: max(height, 1)]
    for row in shown:
        state = Text(row.state, style=COLOURS.get(row.state, ""))
        late = [Text(row.slow, style="yellow")] if slow else []
        step = f"{row.step}/{row.steps}"
        table.add_row(row.run_id, state, step, row.job or "", row.nodes, *late, Text(row.why))
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
        cancel_job(what, folders)
        print(f"job {what} cancelled")
        return
    study = load_study(what)
    folder = results_folder(Path(what), study, results)
    jobs = cancel_jobs(folder)
    print(f"cancelled: {', '.join(jobs)}" if jobs else f"nothing of {folder} is in the queue")
