"""`hpz compare`: whether two trainings' curves are alike, with an exit code for continuous integration."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from harness.cli.options import JsonOption, named_path
from harness.diagnose.curve import Curve
from harness.diagnose.read import ACCEPTED, read_curves, read_named
from harness.words import counted

More = Annotated[
    list[Path] | None,
    typer.Option(parser=named_path, metavar="CURVE", help="One more seed of side A; repeat it."),
]
MoreB = Annotated[
    list[Path] | None,
    typer.Option(parser=named_path, metavar="CURVE", help="One more seed of side B; repeat it."),
]


def share(text: str) -> float:
    """`1%` or `0.01` as a number. Raises typer.BadParameter."""
    try:
        value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        value = -1.0
    if not 0 <= value < math.inf:
        raise typer.BadParameter(f"{text!r} is no share; give one as 1% or 0.01")
    return value


def compare(
    first: Annotated[
        Path,
        typer.Argument(
            parser=named_path,
            metavar="A",
            help=f"What it should be: {ACCEPTED}. A file with several runs is as many seeds.",
        ),
    ],
    second: Annotated[Path, typer.Argument(parser=named_path, metavar="B", help="What is held against it.")],
    a: More = None,
    b: MoreB = None,
    run_a: Annotated[str | None, typer.Option(help="Of a file with several runs, this one alone.")] = None,
    run_b: Annotated[str | None, typer.Option(help="Of a file with several runs, this one alone.")] = None,
    within: Annotated[
        float | None,
        typer.Option(
            parser=share,
            metavar="SHARE",
            help="Take 1% (or 0.01) for none: losses may be off by that at any step.",
        ),
    ] = None,
    last: Annotated[
        int | None,
        typer.Option(
            "--up-to",
            metavar="STEP",
            help="Compare up to this step and no further; else B must go as far as A does.",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Are two curves alike? Exit code 0: yes, 1: no (or B ended early), 2: they cannot be compared.

    Example: hpz compare golden.txt train.log. With seeds: hpz compare s1.csv new.csv --a s2.csv --a s3.csv
    """
    from analysis.judge.compare import compare as judge

    left = [*_curves(first, run_a, "--run-a"), *(curve for path in a or [] for curve in _curves(path))]
    right = [*_curves(second, run_b, "--run-b"), *(curve for path in b or [] for curve in _curves(path))]
    found = judge(left, right, within, last)
    if as_json:
        print(json.dumps(found.record(), indent=1))
    else:
        seeds = f"{counted(found.seeds[0], 'seed')} against {found.seeds[1]}"
        sides = f"{seeds}, {counted(found.steps, 'common step')}"
        print(f"{found.verdict}: {'alike' if found.same else 'not alike'} ({sides})")
        for one in found.curves:
            at = "" if one.first_bad_step is None else f" first at step {one.first_bad_step}"
            print(f"  {one.name}: {one.verdict}{at}; {one.reason}")
        for note in found.notes:
            print(f"  note: {note}")
    raise typer.Exit(0 if found.same else 1)


def _curves(path: Path, run: str | None = None, option: str = "") -> list[Curve]:
    """The curves of a source, or the one named `run`; a curve without a name has that of its file."""
    if run is not None:
        return [read_named(path, run, option)]
    return [replace(curve, name=curve.name or str(path)) for curve in read_curves(path)]
