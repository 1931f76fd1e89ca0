"""`hpz doctor`, `triage` and `audit`: which known fault a training is exposed to, has, or loses parameters by."""

from __future__ import annotations

import json
import re
import shlex
import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from harness.cli.console import wide_console
from harness.cli.options import A_MODEL, JsonOption, named_path
from harness.diagnose.cases import OLD_COPY
from harness.diagnose.doctor import Machine, doctor_answer, examine, machine
from harness.diagnose.faults import named
from harness.diagnose.pages import all_pages, page
from harness.diagnose.read import Given, read_curve, read_setup
from harness.diagnose.show import doctor_lines, text, triage_lines
from harness.study import any_model, model_name
from harness.system.errors import HarnessError

ConfigOption = Annotated[
    Path | None,
    typer.Option(
        help="DeepSpeed's JSON, or what names it: an Accelerate, LLaMA-Factory, axolotl, Lightning or Trainer recipe, "
        "a training script, a file for sbatch or PBS, a job's description, a log that prints it."
    ),
]
ReleaseOption = Annotated[
    str | None,
    typer.Option(help="DeepSpeed of the run: 0.13.4, 0.13.5+e1a2f3, a commit, or a day (2024-02-26)."),
]
WorldOption = Annotated[int | None, typer.Option(min=1, help="Ranks in all.")]
PerNodeOption = Annotated[int | None, typer.Option(min=1, help="Ranks on one node.")]
TorchOption = Annotated[str | None, typer.Option(help="Release of torch that the run has.")]
ScriptOption = Annotated[
    Path | None, typer.Option(help="The training script, for what no configuration says.")
]
ArgumentsOption = Annotated[
    str | None,
    typer.Option(
        help='The Trainer\'s arguments, which fill in "auto": a recipe, a script, or "--bf16 True …".'
    ),
]
AgainstOption = Annotated[
    Path | None,
    typer.Option(
        parser=named_path, metavar="CURVE", help="A second run, of the same settings, seed and data."
    ),
]


def doctor(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[CONFIG | -- COMMAND …]",
            help="The same as --config, or the command that starts the training.",
            show_default=False,
        ),
    ] = None,
    config: ConfigOption = None,
    world_size: WorldOption = None,
    ranks_per_node: PerNodeOption = None,
    release: ReleaseOption = None,
    torch: TorchOption = None,
    model: Annotated[Path | None, typer.Option(help=f"For parameter sizes: {A_MODEL}.")] = None,
    sizes: Annotated[
        str | None, typer.Option(help="Parameter shapes instead, such as 4096x11008,4096.")
    ] = None,
    script: ScriptOption = None,
    trainer_args: ArgumentsOption = None,
    explain: Annotated[
        str | None, typer.Option(metavar="FAULT", help="Print what is known of a fault, or of `all`.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """What this machine has, and which known faults a release and configuration are exposed to.

    Example: hpz doctor --config ds_config.json --world-size 48 --release 0.13.4 --sizes 4096x11008,4096. Or with the
    command as it is: hpz doctor -- deepspeed --num_gpus 8 train.py --deepspeed ds_config.json
    """
    if explain:
        print(all_pages() if explain == "all" else page(named(explain)), end="" if explain == "all" else "\n")
        return
    config, command = _what(words or [], config)
    here = machine()
    given = Given(
        release=release,
        torch=torch,
        world_size=world_size,
        ranks_per_node=ranks_per_node,
        model=model,
        sizes=sizes,
        script=script,
        trainer_args=trainer_args,
        command=command,
    )
    if not (config or command) and given != Given():
        raise HarnessError(NO_QUESTION)
    found = examine(read_setup(config, given, assume_installed=True)) if config or command else None
    if as_json:
        print(doctor_answer(here, found).model_dump_json(indent=2))
    elif found:
        print(text(doctor_lines(found)))
    else:
        _show(here)


NO_QUESTION = (
    "which configuration? Give --config ds_config.json, or -- and the command that starts the training"
)


def _what(words: list[str], config: Path | None) -> tuple[Path | None, str | None]:
    """The configuration and the command among the words: one word is a file, several are a command."""
    if len(words) != 1:
        return config, shlex.join(words) or None
    if config is not None:
        raise HarnessError(f"{words[0]} and --config {config} both name a configuration; give one of them")
    return Path(words[0]), None


def _show(here: Machine) -> None:
    console = wide_console(80)
    console.print(_machine_table(here))
    console.print(
        "To examine a training:\n  hpz doctor --config ds_config.json --world-size N --ranks-per-node M"
    )


def _machine_table(here: Machine) -> Table:
    table = Table("this machine", "", show_header=False, title="This machine")
    table.add_row("system", f"{here.system}, Python {here.python}")
    table.add_row("cores", str(here.cores))
    table.add_row("memory", f"{here.memory_gib:.1f} GiB" if here.memory_gib else "unknown")
    table.add_row("GPU", "\n".join(here.gpus) or "none: trainings run on the CPU and on the virtual device")
    table.add_row("SLURM", here.slurm or "none: studies run on this machine")
    table.add_row("Chromium", here.chromium or "none: needed only to test reports")
    table.add_row("git", here.git or "none: needed to apply patches")
    for lock in here.build_locks:
        table.add_row(
            "lock file", f"{lock}: where no build runs, delete it (hpz doctor --explain 'dead build lock')"
        )
    for name, found in here.packages.items():
        table.add_row(name, found or "not installed")
    table.add_row("patches", here.deepspeed_support)
    return table


def triage(
    curve: Annotated[
        Path,
        typer.Argument(
            parser=named_path,
            metavar="CURVE",
            help="A log, trainer_state.json, CSV, JSON, JSONL, TensorBoard events, a wandb store, their folder, a run "
            "directory, or - for standard input.",
        ),
    ],
    config: ConfigOption = None,
    release: ReleaseOption = None,
    world_size: WorldOption = None,
    ranks_per_node: PerNodeOption = None,
    torch: TorchOption = None,
    model: Annotated[Path | None, typer.Option(help=f"For sizes and vocabulary: {A_MODEL}.")] = None,
    script: ScriptOption = None,
    trainer_args: ArgumentsOption = None,
    run: Annotated[str | None, typer.Option(help="Of a file with several runs, this one alone.")] = None,
    against: AgainstOption = None,
    as_json: JsonOption = False,
) -> None:
    """Tell known hpZ faults apart by curve, configuration and release.

    Example: hpz triage wandb_export.csv --config ds_config.json --release 0.13.4 --world-size 48 --ranks-per-node 8.
    Or: hpz triage - < log.txt
    """
    from harness.diagnose.cases import open_case, open_cases
    from harness.diagnose.triage import triage as judge

    given = Given(
        release=release,
        torch=torch,
        world_size=world_size,
        ranks_per_node=ranks_per_node,
        model=model,
        script=script,
        trainer_args=trainer_args,
    )
    if (curve / "run.json").is_file():
        if config or given != Given():
            raise HarnessError(
                f"{curve}: a run of ours records its configuration and release; leave out --config and --release"
            )
        cases = [open_case(curve, now=time.time())]
    else:
        cases = open_cases(curve, config, given, run)
    other = read_curve(against, "give --against a file of one run") if against else None
    found = [judge(replace(case, other=other)) for case in cases]
    if as_json:
        records = [one.model_dump(mode="json") for one in found]
        print(json.dumps(records[0] if len(records) == 1 else records, indent=1))
        return
    for number, one in enumerate(found):
        if len(found) > 1:
            print(f"{'' if number == 0 else chr(10)}== {one.source}")
        print(text(triage_lines(one)))


def audit(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help=f"{A_MODEL[0].upper()}{A_MODEL[1:]}.")],
    config: ConfigOption = None,
    ranks_per_node: Annotated[
        int | None, typer.Option(help="Ranks (GPUs) of a node; default: those of --config, else 8.")
    ] = None,
    nodes: Annotated[str, typer.Option(help="Numbers of nodes: 4, 1-64 or 2,3,6.")] = "1-16",
    hpz: Annotated[
        int | None,
        typer.Option(help="zero_hpz_partition_size; default: that of --config, else the ranks of a node."),
    ] = None,
    release: ReleaseOption = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "--figure", metavar="DIR", help="Also draw the map, with its table, into DIR."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Map the missing copy. Example: hpz audit mixtral-8x7b --nodes 1-64"""
    from analysis.draw.missing import answer, by_nodes, missing_map, missing_table, parameter_table

    if ranks_per_node is not None and ranks_per_node < 1:
        raise HarnessError(f"--ranks-per-node: {ranks_per_node} is not a number of ranks; give 1 or more")
    setup = read_setup(config, Given(release=release or OLD_COPY, ranks_per_node=ranks_per_node))
    if setup.has_config and setup.hpz == 1:
        raise HarnessError(
            f"{config}: hpZ is off here, so nothing is copied; {'; '.join(map(str, setup.remarks))}"
        )
    ranks_per_node = setup.ranks_per_node or 8
    hpz, release = hpz or (setup.hpz if setup.has_config else None), setup.release or OLD_COPY
    rows = missing_map(any_model(model), parse_nodes(nodes), ranks_per_node, hpz, release)
    files: list[Path] = []
    if out is not None:
        from analysis.draw.missing import missing_figure

        files = missing_figure(rows, model_name(model)).write(out)
    said = answer(rows, release)
    if as_json:
        parameters = [{**vars(row), "share": row.share} for row in rows]
        print(json.dumps({"answer": said, "nodes": by_nodes(rows), "parameters": parameters}, indent=1))
        return
    console, single = wide_console(110), len({row.nodes for row in rows}) == 1
    title = f"{model_name(model)}, DeepSpeed {release}: what the copy into the secondary tensor never writes"
    console.print((parameter_table if single else missing_table)(rows, title))
    console.print(said, highlight=False)
    for file in files:
        console.print(str(file), soft_wrap=True, highlight=False)


MOST_NODE_COUNTS = 4096


def parse_nodes(text: str) -> list[int]:
    """`1-4,8` → [1, 2, 3, 4, 8]. Raises HarnessError."""
    found: list[int] = []
    for part in text.split(","):
        ends = re.fullmatch(r"\s*(\d+)(?:-(\d+))?\s*", part)
        first, last = (int(ends[1]), int(ends[2] or ends[1])) if ends else (0, 0)
        if not 1 <= first <= last:
            raise HarnessError(f"--nodes: {text!r} is not a list of numbers and ranges such as 1-8,16")
        if len(found) + last - first + 1 > MOST_NODE_COUNTS:
            raise HarnessError(
                f"--nodes: {text!r} names more than {MOST_NODE_COUNTS:,} node counts; name those that you may run on"
            )
        found += range(first, last + 1)
    return found
