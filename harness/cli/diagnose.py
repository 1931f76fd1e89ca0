"""`hpz triage`: which known fault a training curve looks like, why, and what to try next."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from harness.cli.console import wide_console
from harness.diagnose.doctor import load_config, model_sizes
from harness.study.models import load_model_file
from harness.system.errors import HarnessError

if TYPE_CHECKING:
    from harness.diagnose.triage import Finding, Triage


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
    model: Annotated[Path | None, typer.Option(help="A model file, for sizes and vocabulary.")] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Machine-readable output on standard output.")
    ] = False,
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
        vocabulary=load_model_file(model).config.vocab_size if model else None,
    )
    found = judge(open_case(curve, known, now=time.time()))
    if as_json:
        print(json.dumps(found.as_record(), indent=1))
    else:
        _print(found)


def _print(found: Triage) -> None:
    console = wide_console(110)
    console.print(_sentence(found), highlight=False)
    table = Table("fault", "points", "for (+) and against (−)", box=None, pad_edge=False)
    for finding in found.findings:
        style = "bold" if finding.fault == found.verdict else "dim" if finding.ruled_out else ""
        points = "ruled out" if finding.ruled_out else f"{finding.points:+d}" if finding.points else "0"
        table.add_row(finding.fault, points, Text(_why(finding)), style=style)
    console.print(table)
    for note in found.notes:
        console.print(Text(f"Note: {note}."))
    console.print("What to try next:", highlight=False)
    for step in found.next:
        console.print(Text(f"  - {step}"))


def _sentence(found: Triage) -> Text:
    if found.verdict == "nothing":
        return Text("This curve shows no sign of a fault.", "bold green")
    if found.verdict == "unrecognised":
        return Text(
            "Something is wrong, but no rule names it: " + "; ".join(found.signs.values()) + ".",
            "bold yellow",
        )
    also = f" Also possible: {', '.join(found.possible)}." if found.possible else ""
    return Text(f"This looks like: {found.verdict}.{also}", "bold red")


def _why(finding: Finding) -> str:
    if finding.ruled_out:
        return finding.ruled_out
    return "\n".join(f"{one.points:+d}  {one.seen}: {one.reason}" for one in finding.evidence) or "no sign"
