"""`hpz wandb`: the mirror of local runs at Weights & Biases."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer
from rich import progress as bars
from rich.console import Console

from harness.cli.options import JsonOption, ResultsOption, StudyArgument, results_folder
from harness.study import load_study
from harness.system.errors import RunFailed

if TYPE_CHECKING:
    from harness.record.mirror import Mirrored


def wandb(
    study_file: StudyArgument,
    results: ResultsOption = None,
    online: Annotated[
        bool, typer.Option("--online", help="Send to the server; default: offline store.")
    ] = False,
    jobs: Annotated[
        int | None, typer.Option(help="Runs pushed side by side; default: one a core.", min=1)
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Mirror runs to Weights & Biases from the local files; repeat at will. Example: hpz wandb results/laptop"""
    from harness.record.mirror import PUSHERS, check_wandb, default_mode, mirror_study

    folder = results_folder(study_file, load_study(study_file), results)
    mode = "online" if online else default_mode()
    check_wandb(mode)
    with _progress(as_json) as watch:
        mirrored = mirror_study(folder, mode, jobs or PUSHERS, watch=watch)
    if as_json:
        print(json.dumps([vars(one) for one in mirrored], indent=1))
    else:
        _say(mirrored, mode)
    if failed := [one for one in mirrored if one.error]:
        raise RunFailed(f"{len(failed)} runs could not be pushed; {failed[0].run_id}: {failed[0].error}")


def _say(mirrored: list[Mirrored], mode: str) -> None:
    print(f"{sum(one.new_steps for one in mirrored)} new steps of {len(mirrored)} runs pushed ({mode})")
    if busy := sum(one.busy for one in mirrored):
        print(f"{busy} runs are mirrored by their own tasks at the moment and were left to them")


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
