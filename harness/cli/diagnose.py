"""`hpz doctor`, `triage` and `audit`: which known fault a training is exposed to, has, or loses parameters by."""

from __future__ import annotations

import json
import re
import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from harness.cli.console import wide_console
from harness.cli.options import A_MODEL, JsonOption
from harness.diagnose import Setup
from harness.diagnose.doctor import Machine, examine, load_config, machine, model_sizes
from harness.diagnose.faults import named
from harness.diagnose.pages import all_pages, page
from harness.diagnose.show import doctor_lines, text, triage_lines
from harness.study import any_model, model_name
from harness.system.errors import HarnessError
from harness.variants import installed_release

def doctor(
    config: Annotated[Path | None, typer.Option(help="A DeepSpeed JSON configuration to examine.")] = None,
    world_size: Annotated[int | None, typer.Option(help="Ranks in all.")] = None,
    ranks_per_node: Annotated[int | None, typer.Option(help="Ranks on one node.")] = None,
    release: Annotated[
        str | None, typer.Option(help="DeepSpeed release; default: the installed one.")
    ] = None,
    model: Annotated[Path | None, typer.Option(help=f"For parameter sizes: {A_MODEL}.")] = None,
    sizes: Annotated[
        str | None, typer.Option(help="Parameter shapes instead, such as 4096x11008,4096.")
    ] = None,
    explain: Annotated[
        str | None, typer.Option(metavar="FAULT", help="Print what is known of a fault, or of `all`.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """What this machine has, and which known faults a release and configuration are exposed to.

    Example: hpz doctor --config ds_config.json --world-size 48 --release 0.13.4 --sizes 4096x11008,4096
    """
    if explain:
        print(all_pages() if explain == "all" else page(named(explain)), end="" if explain == "all" else "\n")
        return
    here = machine()
    numels = model_sizes(model, sizes)
    found = (
        examine(
            Setup(
                release=release or installed_release(),
                config=load_config(config),
                world_size=world_size,
                ranks_per_node=ranks_per_node,
                numels=numels,
            )
        )
        if config
        else None
    )
    if as_json:
        answer = found.model_dump(mode="json") if found else {"exposures": []}
        print(json.dumps({"machine": asdict(here), **answer}, indent=2))
        return
    if found:
        print(text(doctor_lines(found)))
        return
    console = wide_console(80)
    console.print(_machine_table(here))
    console.print("To examine a training: hpz doctor --config ds_config.json --world-size N --ranks-per-node M")


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
        table.add_row("lock file", f"{lock}: where no build runs, delete it (hpz doctor --explain 'dead build lock')")
    for name, found in here.packages.items():
        table.add_row(name, found or "not installed")
    table.add_row("patches", here.deepspeed_support)
    return table


def triage(
    curve: Annotated[
        Path,
        typer.Argument(
            metavar="CURVE",
            help="A run directory, a wandb export (CSV or JSONL), trainer_state.json, or JSONL with step and loss.",
        ),
    ],
    config: Annotated[Path | None, typer.Option(help="The DeepSpeed JSON configuration of the run.")] = None,
    release: Annotated[str | None, typer.Option(help="The DeepSpeed release of the run.")] = None,
    world_size: Annotated[int | None, typer.Option(help="Ranks in all.")] = None,
    ranks_per_node: Annotated[int | None, typer.Option(help="Ranks on one node.")] = None,
    model: Annotated[Path | None, typer.Option(help=f"For sizes and vocabulary: {A_MODEL}.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Tell known hpZ faults apart by curve, configuration and release.

    Example: hpz triage wandb_export.csv --config ds_config.json --release 0.13.4 --world-size 48 --ranks-per-node 8
    """
    from harness.diagnose.cases import Known, open_case
    from harness.diagnose.triage import triage as judge

    own = (curve / "run.json").is_file()
    if own and (config or release):
        raise HarnessError(
            f"{curve}: a run of ours records its configuration and release; leave out --config and --release"
        )
    known = Known(
        config=load_config(config) if config else None,
        release=release,
        world_size=world_size,
        ranks_per_node=ranks_per_node,
        numels=model_sizes(model, None),
        vocabulary=any_model(model).config.vocab_size if model else None,
    )
    found = judge(open_case(curve, known, now=time.time()))
    print(json.dumps(found.model_dump(mode="json"), indent=1) if as_json else text(triage_lines(found)))


def audit(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help=f"{A_MODEL[0].upper()}{A_MODEL[1:]}.")],
    ranks_per_node: Annotated[int, typer.Option(help="Ranks (GPUs) of a node.")] = 8,
    nodes: Annotated[str, typer.Option(help="Numbers of nodes: 4, 1-64 or 2,3,6.")] = "1-16",
    hpz: Annotated[
        int | None, typer.Option(help="zero_hpz_partition_size; default: the ranks of a node.")
    ] = None,
    release: Annotated[str, typer.Option(help="DeepSpeed release.")] = "0.13.4",
    out: Annotated[
        Path | None,
        typer.Option("--out", "--figure", metavar="DIR", help="Also draw the map, with its table, into DIR."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Map the missing copy. Example: hpz audit mixtral-8x7b --nodes 1-64"""
    from analysis.draw.missing import answer, by_nodes, missing_map, missing_table, parameter_table

    if ranks_per_node < 1:
        raise HarnessError(f"--ranks-per-node: {ranks_per_node} is not a number of ranks; give 1 or more")
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


def parse_nodes(text: str) -> list[int]:
    """`1-4,8` → [1, 2, 3, 4, 8]. Raises HarnessError."""
    found: list[int] = []
    for part in text.split(","):
        ends = re.fullmatch(r"\s*(\d+)(?:-(\d+))?\s*", part)
        first, last = (int(ends[1]), int(ends[2] or ends[1])) if ends else (0, 0)
        if not 1 <= first <= last:
            raise HarnessError(f"--nodes: {text!r} is not a list of numbers and ranges such as 1-8,16")
        found += range(first, last + 1)
    return found
