"""The `hpz` command: one short function per verb; each takes a study file or its results folder."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from harness.cli.audit import audit
from harness.cli.cluster import app as cluster_app
from harness.cli.console import wide_console
from harness.cli.diagnose import triage
from harness.cli.patch import app as patch_app
from harness.cli.race import race
from harness.cli.simulate import calibrate, simulate
from harness.cli.slurm import cancel, status, submit, watch
from harness.diagnose.doctor import doctor
from harness.study.study import Run, Study, load_study, save_study
from harness.system.errors import HarnessError, RunFailed

app = typer.Typer(
    name="hpz",
    help="Reproduce, explain and end the ZeRO++ hpZ race. Start with: hpz plan experiments/laptop.yaml",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

StudyArgument = Annotated[
    Path, typer.Argument(metavar="STUDY", help="A study file, or the results folder of one.")
]
ResultsOption = Annotated[Path | None, typer.Option(help="Results folder; default results/<study name>.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Machine-readable output on standard output.")]


def results_folder(study_path: Path, study: Study, results: Path | None) -> Path:
    """Where a study's results lie: as given, the folder itself when one was named, else results/<name>."""
    if results is not None:
        return results
    return study_path if study_path.is_dir() else Path("results") / study.name


@app.command()
def plan(study_file: StudyArgument, as_json: JsonOption = False) -> None:
    """Show the runs of a study and what each would use; touches nothing. Example: hpz plan experiments/laptop.yaml"""
    study = load_study(study_file)
    baselines = {baseline.run_id for _, baseline in study.pairs}
    if as_json:
        print(json.dumps([_plan_row(run, baselines) for run in study.runs], indent=1))
        return
    table = Table(title=f"{study.name}: {len(study.runs)} runs, {len(study.pairs)} pairs", box=None)
    for column in ("run", "ranks", "steps", "tokens", "evidence"):
        table.add_column(column, no_wrap=column == "run", justify="left" if column == "run" else "right")
    for row in (_plan_row(run, baselines) for run in study.runs):
        mark = " (baseline)" if row["baseline"] else ""
        table.add_row(
            f"{row['run_id']}{mark}", *(str(row[key]) for key in ("ranks", "steps", "tokens", "evidence"))
        )
    wide_console().print(table)


def _plan_row(run: Run, baselines: set[str]) -> dict[str, Any]:
    return {
        "run_id": run.run_id,
        "variant": run.variant,
        "device": run.device,
        "policy": run.policy,
        "ranks": run.shape.world_size,
        "hpz": run.shape.hpz,
        "steps": run.training.steps,
        "tokens": run.training.steps * _tokens_per_step(run),
        "baseline": run.run_id in baselines,
        "evidence": run.evidence,
    }


def _tokens_per_step(run: Run) -> int:
    training = run.training
    per_rank = training.micro_batch * training.sequence_length * training.gradient_accumulation
    return per_rank * run.shape.world_size


@app.command()
def run(
    study_file: StudyArgument,
    results: ResultsOption = None,
    witness: Annotated[
        str | None,
        typer.Option(help="Watch each run: sanitizer (torch's, on CUDA streams) or profile (of one step)."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Run a study on this machine, go on where it was stopped, and report. Example: hpz run experiments/laptop.yaml"""
    from harness.launch.local import check_machine, run_study, sole_launcher, terminate_on_sigterm
    from harness.launch.progress import watch_runs

    study = load_study(study_file)
    check_machine(study, witness)
    folder = results_folder(study_file, study, results)
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


@app.command()
def collect(study_file: StudyArgument, results: ResultsOption = None, as_json: JsonOption = False) -> None:
    """Gather what the runs recorded so far into runs.parquet and steps.parquet."""
    from analysis.collect.collect import collect_study

    collected = collect_study(results_folder(study_file, load_study(study_file), results))
    if as_json:
        print(json.dumps(collected.counts()))
        return
    Console().print(collected.describe(), highlight=False)


@app.command()
def report(
    study_file: StudyArgument,
    results: ResultsOption = None,
    against: Annotated[
        Path | None,
        typer.Option(metavar="RESULTS", help="Results folder of another study or commit to compare with."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Judge the pairs and write report.html, summary.json and figures/. Example: hpz report results/laptop"""
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

        rows, levels = compared(summary, load_summary(against))
        if rows:
            console.print(comparison_table(rows, str(folder), str(against)))
        if levels:
            console.print(levels_table(levels, str(folder), str(against)))
    console.print(f"Report: {page}", soft_wrap=True, highlight=False)


@app.command()
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


INTERRUPTED = 128 + signal.SIGINT

VERBS: tuple[Callable[..., None], ...] = (
    *(submit, status, watch, cancel),
    *(race, simulate, calibrate, doctor, audit, triage),
)
for verb in VERBS:
    app.command()(verb)
app.add_typer(patch_app, name="patch")
app.add_typer(cluster_app, name="cluster")


def main() -> None:
    """Entry point: turns what went wrong into one sentence and the documented exit code (1 or 2)."""
    verbose = "-v" in sys.argv[1:]
    arguments = [word for word in sys.argv[1:] if word != "-v"]
    try:
        app(arguments, standalone_mode=True)
    except (HarnessError, RunFailed) as error:
        if verbose:
            raise
        print(f"hpz: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, HarnessError) else 1)
    except SystemExit as ended:
        if ended.code == INTERRUPTED:  # typer's answer to Ctrl-C, which says nothing
            print(
                "hpz: interrupted; finished runs are kept, the same command goes on from here",
                file=sys.stderr,
            )
        raise


if __name__ == "__main__":
    main()
