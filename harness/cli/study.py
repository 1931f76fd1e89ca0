"""The verbs of a study on this machine: plan, run, collect and report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from harness.cli.archive import is_archive, opened
from harness.cli.console import wide_console
from harness.cli.hours import hours_table, known
from harness.cli.options import (
    JsonOption,
    ReleaseOption,
    ResultsOption,
    StudyArgument,
    UnpinnedOption,
    results_folder,
    wanted_release,
)
from harness.cli.plan import budget_notes, plan_rows, plan_table
from harness.record.hours import study_hours
from harness.study import load_study, save_study
from harness.system.errors import RunFailed
from harness.variants import release_notes


def plan(
    study_file: StudyArgument,
    release: ReleaseOption = None,
    unpinned: UnpinnedOption = False,
    as_json: JsonOption = False,
) -> None:
    """Show the runs of a study and what each would use; touches nothing. Example: hpz plan experiments/laptop.yaml"""
    study = load_study(study_file, wanted_release(release, unpinned))
    rows = plan_rows(study)
    if as_json:
        print(json.dumps(rows, indent=1))
        return
    console = wide_console()
    console.print(plan_table(study, rows))
    for note in [
        *release_notes((run.release, run.variant) for run in study.runs),
        *budget_notes(study, rows),
    ]:
        console.print(note, highlight=False)
    hours = study_hours(study, results_folder(study_file, study, None))
    if known(hours):
        console.print(hours_table(hours))
    if study.data.packed and study.data.sha256 is None:
        console.print(
            f"The text is not prepared yet, and the ids will change: hpz data prepare {study_file}",
            soft_wrap=True,
        )


def run(
    study_file: StudyArgument,
    results: ResultsOption = None,
    release: ReleaseOption = None,
    unpinned: UnpinnedOption = False,
    witness: Annotated[
        str | None,
        typer.Option(help="Watch each run: sanitizer (torch's, on CUDA streams) or profile (of one step)."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Run a study on this machine, go on where it was stopped, and report. Example: hpz run experiments/laptop.yaml"""
    from harness.launch.local import check_machine, run_study, sole_launcher, terminate_on_sigterm
    from harness.launch.progress import watch_runs

    release = wanted_release(release, unpinned)
    study = load_study(study_file, release)
    check_machine(study, witness)
    folder = results_folder(study_file, study, results, release)
    if witness and results is None and not study_file.is_dir():
        folder = folder.with_name(f"{folder.name}-{witness}")  # watched runs are slower: kept apart
    terminate_on_sigterm()
    with sole_launcher(folder):
        save_study(study, folder)
        with watch_runs(study, folder, quiet=as_json) as watch:
            statuses = run_study(study, folder, watch, witness)
    _report(folder, as_json)
    failed = [status for status in statuses if status.state != "done"]
    if failed:
        raise RunFailed(f"{len(failed)} of {len(statuses)} runs did not finish: {failed[0].reason}")


def collect(study_file: StudyArgument, results: ResultsOption = None, as_json: JsonOption = False) -> None:
    """Gather what the runs recorded so far into runs.parquet and steps.parquet."""
    from analysis.collect.collect import collect_study

    collected = collect_study(results_folder(study_file, load_study(study_file), results))
    if as_json:
        print(json.dumps(collected.counts()))
        return
    Console().print(collected.describe(), highlight=False)


def report(
    study_file: StudyArgument,
    results: ResultsOption = None,
    against: Annotated[
        Path | None,
        typer.Option(metavar="RESULTS", help="Results folder of another study or commit to compare with."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Judge the pairs and write report.html, summary.json and figures/. Example: hpz report results/laptop

    An archive of hpz archive is checked and opened first.
    """
    if is_archive(study_file):
        study_file, results = opened(study_file, results), None
    _report(results_folder(study_file, load_study(study_file), results), as_json, against)


def _report(folder: Path, as_json: bool, against: Path | None = None) -> None:
    from analysis.judge.evidence import ran
    from analysis.judge.summary import load_summary
    from analysis.page.answers import headline
    from analysis.page.report import build_report
    from analysis.page.verdicts import verdict_table

    page = build_report(folder, against)
    summary = load_summary(folder)
    if as_json:
        print(json.dumps(summary, indent=1))
        return
    console = wide_console()
    console.print(verdict_table(summary) if ran(summary) else headline(summary))
    if against is not None:
        from analysis.page.compare import comparison_table
        from analysis.page.levels import compared, levels_table
        from analysis.page.loop import loops_differ

        other = load_summary(against)
        rows, levels = compared(summary, other)
        if rows:
            console.print(comparison_table(rows, str(folder), str(against)))
        if levels:
            console.print(levels_table(levels, str(folder), str(against)))
        if words := loops_differ(summary, other):
            console.print(words, highlight=False)
    console.print(f"Report: {page}", soft_wrap=True, highlight=False)
