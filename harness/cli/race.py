"""`hpz race`: which accesses of a run, a study or a script nothing orders, and what that can do."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.util import decode_source
from pathlib import Path

import typer
from rich.console import Console

from harness.cli.console import wide_console
from harness.cli.options import JsonOption, UnpinnedOption, results_folder, wanted_release
from harness.cli.race_options import (
    RANKS,
    STEPS,
    ConfigOption,
    ExploreOption,
    FailOnRaceOption,
    MapCudaOption,
    ModuleOption,
    PythonOption,
    RanksOption,
    ReleaseOption,
    ReplayOption,
    ResultsOption,
    SchedulesOption,
    ScriptArguments,
    ScriptOption,
    SearchOption,
    SeedsOption,
    StepsOption,
    TargetArgument,
    TimeoutOption,
    VariantOption,
    VerboseOption,
)
from harness.configuration import checked, read_configuration
from harness.race.corpus import race_corpus
from harness.race.effects import what_changed
from harness.race.explore import Budget
from harness.race.fault import is_corpus, load_corpus
from harness.race.fault_pairs_table import print_pairs
from harness.race.investigate import Settings, investigate
from harness.race.job import Job, Program
from harness.race.launch import Ranks
from harness.race.launchers import Launched, is_launcher, read_launch
from harness.race.replay import Again, Values, read_replay, replayed
from harness.race.report import Report
from harness.race.survey import race_study
from harness.race.table import print_matrix
from harness.race.text import text
from harness.record import RunDirectory
from harness.study import load_study
from harness.system.build_locks import dead_locks, sentence
from harness.system.errors import HarnessError
from harness.variants import Variant, released_variant


def race(
    target: TargetArgument = None,
    arguments: ScriptArguments = None,
    script: ScriptOption = None,
    module: ModuleOption = None,
    config: ConfigOption = None,
    ranks: RanksOption = None,
    variant: VariantOption = None,
    release: ReleaseOption = None,
    unpinned: UnpinnedOption = False,
    steps: StepsOption = None,
    seeds: SeedsOption = 2,
    search: SearchOption = "named",
    schedules: SchedulesOption = 64,
    explore: ExploreOption = True,
    replay: ReplayOption = None,
    results: ResultsOption = None,
    timeout: TimeoutOption = 600.0,
    map_cuda: MapCudaOption = True,
    python: PythonOption = None,
    fail_on_race: FailOnRaceOption = False,
    verbose: VerboseOption = False,
    as_json: JsonOption = False,
) -> None:
    """Find accesses that nothing orders, and what they can do. Example: hpz race --script train.py --ranks 4

    Runs real DeepSpeed on the virtual device, needs no GPU. Also: hpz race -- deepspeed --num_gpus 4 train.py ARGS,
    hpz race experiments/races.yaml, hpz race results/laptop/runs/RUN, hpz race --replay FILE; and a corpus of faults,
    each on the release that has it and on the one that ended it: hpz race experiments/corpus.

    Exit codes: 0 it ran to its end, whatever was found (see --fail-on-race); 1 the program failed, a replay shows
    nothing here, or a fault of the corpus was missed; 2 it could not be run or analysed.
    """
    for lock in dead_locks():
        Console(stderr=True).print(
            f"Warning: {sentence(lock)}", highlight=False, markup=False, soft_wrap=True
        )
    release = wanted_release(release, unpinned)
    budget = Budget(seeds=seeds, mode=search, schedules=schedules)
    settings = Settings(budget if explore else None, timeout)
    shown = Shown(verbose, as_json, fail_on_race)
    if replay is not None:
        _replay(replay, settings, as_json)
    elif (launched := launched_by(script, module, target, arguments or [])) is not None:
        settings_of_script = Launch(ranks, config, variant, release, steps, map_cuda, python)
        program = script_program(launched, settings_of_script)
        _one(program, results or Path("results") / f"race-{Path(program.title).stem}", settings, shown)
    elif target is None:
        raise HarnessError(
            "hpz race: give a run directory, a study file, --script FILE or --replay FILE, or a launcher's line "
            "after --"
        )
    elif (target / "run.json").is_file():
        program = Program.of_run(RunDirectory(target).run(), steps or STEPS)
        _one(program, results or target, settings, shown)
    elif is_corpus(target):
        _corpus(target, results or Path("results") / "corpus", settings, as_json)
    else:
        _study(target, release, results, settings, steps or STEPS, shown)


@dataclass(frozen=True)
class Shown:
    """How a report is shown, and whether what it found is an error."""

    verbose: bool = False
    as_json: bool = False
    fail_on_race: bool = False


def _study(
    file: Path, release: str | None, results: Path | None, settings: Settings, steps: int, shown: Shown
) -> None:
    study = load_study(file, release)
    folder = results_folder(file, study, results, release)
    matrix = race_study(study, folder, settings, steps, quiet=shown.as_json)
    if shown.as_json:
        print(matrix.model_dump_json(indent=1))
    else:
        print_matrix(matrix, wide_console())
    if any(row.problem or (shown.fail_on_race and row.faults) for row in matrix.rows):
        raise typer.Exit(1)


def _corpus(path: Path, results: Path, settings: Settings, as_json: bool) -> None:
    pairs = race_corpus(load_corpus(path), results, settings, quiet=as_json)
    if as_json:
        print(pairs.model_dump_json(indent=1))
    else:
        print_pairs(pairs, wide_console())
    if not all(pair.good for pair in pairs.pairs):
        raise typer.Exit(1)


@dataclass(frozen=True)
class Launch:
    """How a user's script is run, as the options say it."""

    ranks: int | None = None
    config: Path | None = None
    variant: str | None = None
    release: str | None = None
    steps: int | None = None
    map_cuda: bool = True
    python: Path | None = None


def launched_by(
    script: Path | None, module: str | None, target: Path | None, arguments: list[str]
) -> Launched | None:
    """The user's program, by an option or by a launcher's line; None where neither is given. Raises HarnessError."""
    words = [*([str(target)] if target else []), *arguments]
    if script is not None and module is not None:
        raise HarnessError("--script and --module: give one of them")
    if script is not None or module is not None:
        return Launched(tuple(words), script=script, module=module)
    if target is not None and not target.exists() and (arguments or is_launcher(str(target))):
        return read_launch(words)
    if target is not None and target.suffix == ".py":
        given = f" -- {' '.join(arguments)}" if arguments else ""
        raise HarnessError(f"{target}: is no study; give a script as hpz race --script {target}{given}")
    return None


def script_program(launched: Launched, launch: Launch) -> Program:
    """The program of a user's script. Raises HarnessError for files that are not there."""
    files = ((launched.script, "--script"), (launch.config, "--config"), (launch.python, "--python"))
    for file, option in files:
        if file is not None and not file.is_file():
            raise HarnessError(f"{option} {file}: no such file; give the path of one")
    if launch.config is not None:
        found = read_configuration(launch.config)
        for remark in (*found.remarks, *checked(found.deepspeed or {}).remarks):
            Console(stderr=True).print(f"Note: {remark}", highlight=False, markup=False, soft_wrap=True)
    variant = launch.variant
    if launch.release is not None and variant is None:
        variant = released_variant(launch.release).name
    if launch.python is not None and variant is not None:
        raise HarnessError(
            "--python: runs the DeepSpeed of that environment as it is; leave --variant and --release out"
        )
    text = source_of(launched.script) if launched.script else launched.module or ""
    return Program(
        ranks=launch.ranks or launched.ranks or RANKS,
        script=str(launched.script.resolve()) if launched.script else None,
        module=launched.module,
        arguments=launched.arguments,
        environment=tuple(launched.environment.items()),
        local_rank=launched.local_rank,
        config=str(launch.config.resolve()) if launch.config else None,
        variant=Variant.parse(variant).name if variant else None,
        release=launch.release,
        transformers="transformers" in text,
        map_cuda=launch.map_cuda,
        steps=launch.steps,
        python=str(launch.python.absolute()) if launch.python else None,
    )


def source_of(script: Path) -> str:
    """The text of a script. Raises HarnessError for what is none."""
    content = script.read_bytes()
    try:
        source = decode_source(content)
    except (SyntaxError, ValueError):
        source = "\0"
    if "\0" in source:
        raise HarnessError(
            f"--script {script}: is no Python source; give the script that trains, or a launcher's line after --"
        )
    return source


def _one(program: Program, folder: Path, settings: Settings, shown: Shown) -> None:
    console = Console(stderr=True)

    def say(line: str) -> None:
        if not shown.as_json:
            console.print(line, highlight=False, markup=False, soft_wrap=True)

    with Ranks.of(program) as ranks:
        report = investigate(Job(program), ranks, folder, settings, say)
    show(report, folder, shown)


def show(report: Report, folder: Path, shown: Shown) -> None:
    if shown.as_json:
        print(report.model_dump_json(indent=1))
    else:
        for line in text(report, shown.verbose):
            print(line)
        print(f"\nwritten: {folder / 'races.json'}")
    if report.problems or (shown.fail_on_race and report.races):
        raise typer.Exit(1)


def _replay(file: Path, settings: Settings, as_json: bool) -> None:
    replay, job = read_replay(file)
    with Ranks.of(job.program) as ranks:
        again = replayed(replay, job, lambda job: ranks.run(job, settings.timeout))
    if as_json:
        content = {
            "reproduced": again.same,
            "shows": again.shows,
            "expected": replay.expected.model_dump(),
            "found": Values.of(again.outcome).model_dump(),
            "order_of_issue": [Values.of(outcome).model_dump() for outcome in again.issued],
            "changed_versions": again.changed,
        }
        print(json.dumps(content, indent=1))
    else:
        for line in replay.story:
            print(line)
        print(what_came_again(again))
    if not again.shows:
        raise typer.Exit(1)


def what_came_again(again: Again) -> str:
    """Whether the race showed again, and where not to the bit: what showed here, and what may be the reason."""
    if again.same:
        return "reproduced to the bit"
    reasons = (
        "; ".join(again.changed)
        or "all packages are those that it was found with, the processor may be another"
    )
    order = again.issued[0]
    if again.shows:
        return f"shown again, with other values: {what_changed(order, again.outcome)} ({reasons})"
    if order.problem:
        return f"NOT reproduced: the program {order.problem} in the order of issue too; {reasons}"
    if again.chance:
        return f"NOT reproduced: the order of issue does not end twice alike here; {reasons}"
    if again.outcome.problem:
        return f"NOT reproduced: the program {again.outcome.problem}; {reasons}"
    return f"NOT reproduced: the values are those of the order of issue; {reasons}"
