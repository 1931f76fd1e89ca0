"""`hpz race`: which accesses of a run, a study or a script nothing orders, and what that can do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from harness.cli.console import wide_console
from harness.cli.options import JsonOption, UnpinnedOption, results_folder, wanted_release
from harness.configuration import checked, read_configuration
from harness.race.explore import Budget
from harness.race.investigate import Settings, investigate
from harness.race.job import Job, Program
from harness.race.launch import Ranks
from harness.race.replay import Values, changed_versions, read_replay, replayed
from harness.race.report import Report
from harness.race.survey import race_study
from harness.race.table import print_matrix
from harness.race.text import text
from harness.record import RunDirectory
from harness.study import load_study
from harness.system.build_locks import dead_locks, sentence
from harness.system.errors import HarnessError
from harness.variants import Variant, released_variant

STEPS = 4  # optimizer steps of a run that are analysed


def race(
    target: Annotated[
        Path | None,
        typer.Argument(metavar="RUN|STUDY", help="A run directory, a study file or its results folder."),
    ] = None,
    arguments: Annotated[
        list[str] | None,
        typer.Argument(metavar="[-- ARGUMENTS]", help="What the script gets as its arguments."),
    ] = None,
    script: Annotated[Path | None, typer.Option(help="Analyse this training script instead.")] = None,
    config: Annotated[
        Path | None,
        typer.Option(help="DeepSpeed's JSON, or what names it; its keys override what the script passes."),
    ] = None,
    ranks: Annotated[int, typer.Option(min=1, help="Ranks of the script.")] = 4,
    variant: Annotated[
        str | None, typer.Option(help="Run the script on this variant of DeepSpeed; default: as installed.")
    ] = None,
    release: Annotated[
        str | None,
        typer.Option(help="DeepSpeed release of the script's variant, or in place of the study's."),
    ] = None,
    unpinned: UnpinnedOption = False,
    steps: Annotated[int, typer.Option(min=1, help="Optimizer steps of each run that are analysed.")] = STEPS,
    seeds: Annotated[
        int, typer.Option(min=0, help="Random schedules to try, besides the systematic ones.")
    ] = 2,
    explore: Annotated[bool, typer.Option(help="Search for schedules that change values.")] = True,
    replay: Annotated[Path | None, typer.Option(help="Run the schedule of a replay file again.")] = None,
    results: Annotated[Path | None, typer.Option(help="Results folder; default results/race-NAME.")] = None,
    timeout: Annotated[float, typer.Option(help="Seconds for one execution.")] = 600.0,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Callers and all names.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Find accesses that nothing orders, and what they can do. Example: hpz race --script train.py --ranks 4

    Runs real DeepSpeed on the virtual device, needs no GPU. Also: hpz race experiments/races.yaml, hpz race
    results/laptop/runs/RUN, hpz race --replay FILE.
    """
    for lock in dead_locks():
        Console(stderr=True).print(
            f"Warning: {sentence(lock)}", highlight=False, markup=False, soft_wrap=True
        )
    release = wanted_release(release, unpinned)
    settings = Settings(Budget(seeds=seeds) if explore else None, timeout)
    if replay is not None:
        _replay(replay, settings, as_json)
    elif script is not None:
        words = [*([str(target)] if target else []), *(arguments or [])]
        program = script_program(script, words, ranks, config, variant, release)
        _one(program, results or Path("results") / f"race-{script.stem}", settings, verbose, as_json)
    elif target is None:
        raise HarnessError("hpz race: give a run directory, a study file, --script FILE or --replay FILE")
    elif (target / "run.json").is_file():
        program = Program.of_run(RunDirectory(target).run(), steps)
        _one(program, results or target, settings, verbose, as_json)
    else:
        _study(target, release, results, settings, steps, as_json)


def _study(
    file: Path, release: str | None, results: Path | None, settings: Settings, steps: int, as_json: bool
) -> None:
    study = load_study(file, release)
    matrix = race_study(study, results_folder(file, study, results, release), settings, steps, quiet=as_json)
    if as_json:
        print(matrix.model_dump_json(indent=1))
    else:
        print_matrix(matrix, wide_console())
    if any(row.problem for row in matrix.rows):
        raise typer.Exit(1)


def script_program(
    script: Path,
    arguments: list[str],
    ranks: int,
    config: Path | None,
    variant: str | None,
    release: str | None,
) -> Program:
    """The program of a user's script. Raises HarnessError for files that are not there."""
    for file, option in ((script, "--script"), (config, "--config")):
        if file is not None and not file.is_file():
            raise HarnessError(f"{option} {file}: no such file; give the path of one")
    if config is not None:
        found = read_configuration(config)
        for remark in (*found.remarks, *checked(found.deepspeed or {}).remarks):
            Console(stderr=True).print(f"Note: {remark}", highlight=False, markup=False, soft_wrap=True)
    if release is not None and variant is None:
        variant = released_variant(release).name
    return Program(
        ranks=ranks,
        script=str(script.resolve()),
        arguments=tuple(arguments),
        config=str(config.resolve()) if config else None,
        variant=Variant.parse(variant).name if variant else None,
        release=release,
        transformers="transformers" in script.read_text(errors="replace"),
    )


def _one(program: Program, folder: Path, settings: Settings, verbose: bool, as_json: bool) -> None:
    console = Console(stderr=True)

    def say(line: str) -> None:
        if not as_json:
            console.print(line, highlight=False, markup=False, soft_wrap=True)

    with Ranks(program.overlay, transformers=program.transformers) as ranks:
        report = investigate(Job(program), ranks, folder, settings, say)
    show(report, folder, verbose, as_json)


def show(report: Report, folder: Path, verbose: bool, as_json: bool) -> None:
    if as_json:
        print(report.model_dump_json(indent=1))
    else:
        for line in text(report, verbose):
            print(line)
        print(f"\nwritten: {folder / 'races.json'}")
    if report.problems:
        raise typer.Exit(1)


def _replay(file: Path, settings: Settings, as_json: bool) -> None:
    replay, job = read_replay(file)
    with Ranks(job.program.overlay, transformers=job.program.transformers) as ranks:
        same, values = replayed(replay, job, lambda job: ranks.run(job, settings.timeout))
    changed = changed_versions(replay)
    if as_json:
        content = {
            "reproduced": same,
            "expected": replay.expected.model_dump(),
            "found": values.model_dump(),
            "changed_versions": changed,
        }
        print(json.dumps(content, indent=1))
    else:
        for line in replay.story:
            print(line)
        print("reproduced to the bit" if same else f"NOT reproduced: {not_reproduced(values, changed)}")
    if not same:
        raise typer.Exit(1)


def not_reproduced(values: Values, changed: list[str]) -> str:
    """Why, as far as can be said."""
    what = f"the program {values.problem}" if values.problem else "other values came out"
    return f"{what}; {'; '.join(changed) or 'all package versions are those that it was found with'}"
