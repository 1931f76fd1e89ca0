"""`hpz dashboard`: what a study recorded, in a browser on this machine."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from harness.cli.options import ResultsOption, StudyArgument, results_folder
from harness.study import load_study

SECONDS = 10.0  # between looks at runs that train


def dashboard(
    study_file: StudyArgument,
    results: ResultsOption = None,
    port: Annotated[
        int | None, typer.Option(help="Port on this machine; default: the first free one from 7860 on.")
    ] = None,
    open_browser: Annotated[bool, typer.Option("--open", help="Open it in the browser, too.")] = False,
) -> None:
    """Watch a study in a local dashboard: no account, no network, until Ctrl-C. Example: hpz dashboard results/laptop

    From elsewhere: ssh -L 7860:127.0.0.1:7860 HOST, then open the address.
    """
    from analysis.dashboard.local import Dashboard, served
    from analysis.judge.summary import load_summary

    folder = results_folder(study_file, load_study(study_file), results)
    summary = load_summary(folder) if (folder / "summary.json").exists() else None
    shown = Dashboard(folder, summary)
    with served(shown, port) as address:
        print(f"{len(shown.told)} runs: {address}", flush=True)
        if summary is None:
            print(f"Verdicts, tables and figures are shown after hpz report {folder}", flush=True)
        if open_browser:
            typer.launch(address)
        try:
            while True:
                time.sleep(SECONDS)
                shown.update()
        except KeyboardInterrupt:
            print("Closed; the same command shows it again")
