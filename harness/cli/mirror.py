"""`hpz wandb`: the mirror of local runs at Weights & Biases."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from harness.cli.options import JsonOption, ResultsOption, StudyArgument, results_folder
from harness.study import load_study
from harness.system.errors import RunFailed


def wandb(
    study_file: StudyArgument,
    results: ResultsOption = None,
    online: Annotated[
        bool, typer.Option("--online", help="Send to the server; default: offline store.")
    ] = False,
    jobs: Annotated[int, typer.Option(help="Runs pushed side by side.")] = 4,
    as_json: JsonOption = False,
) -> None:
    """Mirror runs to Weights & Biases from the local files; repeat at will. Example: hpz wandb results/laptop"""
    from harness.record.mirror import default_mode, mirror_study

    folder = results_folder(study_file, load_study(study_file), results)
    mode = "online" if online else default_mode()
    mirrored = mirror_study(folder, mode, jobs)
    failed = [one for one in mirrored if one.error]
    if as_json:
        print(json.dumps([vars(one) for one in mirrored], indent=1))
    else:
        print(f"{sum(one.new_steps for one in mirrored)} new steps of {len(mirrored)} runs pushed ({mode})")
    if failed:
        raise RunFailed(f"{len(failed)} runs could not be pushed; {failed[0].run_id}: {failed[0].error}")
