"""`hpz wandb`: the mirror of local runs, and of what was found, at Weights & Biases."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import progress as bars
from rich.console import Console

from harness.cli.options import JsonOption, ResultsOption, StudyArgument, results_folder
from harness.study import Study, load_study
from harness.system.errors import HarnessError, RunFailed

if TYPE_CHECKING:
    from harness.record.mirror import Mirrored
    from harness.record.session import Mode


def wandb(
    study_file: StudyArgument,
    results: ResultsOption = None,
    online: Annotated[
        bool, typer.Option("--online", help="Send to the server; default: offline store.")
    ] = False,
    jobs: Annotated[
        int | None, typer.Option(help="Runs pushed side by side; default: one a core.", min=1)
    ] = None,
    dashboard: Annotated[
        bool,
        typer.Option(
            "--dashboard", help="Build a workspace and a report, too; with --online, save them there."
        ),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Mirror runs to Weights & Biases from the local files; repeat at will. Example: hpz wandb results/laptop

    After `hpz report` the runs carry their verdicts, and a summary run has tables, figures and the report itself.
    """
    from harness.record.mirror import PUSHERS, check_wandb, default_mode, mirror_study

    study = load_study(study_file)
    folder = results_folder(study_file, study, results)
    mode = "online" if online else default_mode()
    check_wandb(mode)
    summary = _reported(folder)
    with _progress(as_json) as watch:
        mirrored = mirror_study(folder, mode, jobs or PUSHERS, _found(summary), watch)
    said = [_told(mirrored, mode), *_busy(mirrored)]
    said += _summary_run(folder, mode) if summary else []
    said += _dashboard(folder, study, summary, mode) if dashboard else []
    print(json.dumps([vars(one) for one in mirrored], indent=1) if as_json else "\n".join(said))
    if failed := [one for one in mirrored if one.error]:
        raise RunFailed(f"{len(failed)} runs could not be pushed; {failed[0].run_id}: {failed[0].error}")


def _reported(folder: Path) -> dict[str, Any] | None:
    """What `hpz report` found, if it was run."""
    from analysis.judge.summary import load_summary

    return load_summary(folder) if (folder / "summary.json").exists() else None


def _found(summary: dict[str, Any] | None) -> dict[str, dict[str, Any]]:
    from analysis.dashboard.found import found_of_runs

    return found_of_runs(summary) if summary else {}


def _told(mirrored: list[Mirrored], mode: str) -> str:
    return f"{sum(one.new_steps for one in mirrored)} new steps of {len(mirrored)} runs pushed ({mode})"


def _busy(mirrored: list[Mirrored]) -> list[str]:
    busy = sum(one.busy for one in mirrored)
    return (
        [f"{busy} runs are mirrored by their own tasks at the moment and were left to them"] if busy else []
    )


def _summary_run(folder: Path, mode: Mode) -> list[str]:
    from analysis.dashboard.summary_run import push_summary

    try:
        new = push_summary(folder, mode)
    except HarnessError:
        raise
    except Exception as error:
        raise RunFailed(f"the summary of {folder} could not be pushed: {error}") from error
    return [f"verdicts, figures and report pushed as the study's summary run ({mode})"] if new else []


def _dashboard(folder: Path, study: Study, summary: dict[str, Any] | None, mode: Mode) -> list[str]:
    from analysis.dashboard.workspace import check_library, save_dashboard, write_specification
    from harness.record.session import project

    check_library()
    file = write_specification(folder, study, summary, project())
    if mode == "offline":
        return [f"dashboard built: {file}; with an account, --online saves it at the server"]
    try:
        workspace, page = save_dashboard(folder, study, summary, project())
    except Exception as error:
        raise RunFailed(f"the dashboard could not be saved: {error}") from error
    return [f"workspace: {workspace}", f"report: {page}"]


@contextmanager
def _progress(quiet: bool) -> Iterator[Callable[[int, int], None]]:
    """A bar on standard error."""
    columns = (
        bars.TextColumn("runs"),
        bars.BarColumn(),
        bars.MofNCompleteColumn(),
        bars.TimeElapsedColumn(),
        bars.TimeRemainingColumn(),
    )
    console = Console(stderr=True)
    with bars.Progress(*columns, console=console, disable=quiet or not console.is_terminal) as display:
        task = display.add_task("runs")
        yield lambda done, total: display.update(task, completed=done, total=total)
