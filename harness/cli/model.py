"""`hpz model`: write a model file for any Hugging Face configuration or a toy of one, and show what a model holds."""

from __future__ import annotations

import json
from math import prod
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from harness.cli.console import wide_console
from harness.cli.options import A_MODEL, JsonOption
from harness.study import (
    ModelFile,
    compress,
    model_content,
    model_name,
    model_text,
    parameter_shapes,
    parse_model,
    toy_name,
    unaligned_parameters,
)
from harness.system.errors import HarnessError
from harness.system.whole_file import write_text_whole

WORLDS = (2, 4, 8, 16, 32, 48, 64, 128, 256, 512, 1024)  # numbers of ranks that `show` asks about

app = typer.Typer(
    name="model",
    help="Models: write a file for any Hugging Face configuration, show what a model holds.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)

ModelArgument = Annotated[str, typer.Argument(metavar="MODEL", help=f"{A_MODEL[0].upper()}{A_MODEL[1:]}.")]
ScaleOption = Annotated[
    int | None,
    typer.Option("--scale", metavar="WIDTH", help="Scale down to a toy of about this width, as 64."),
]
UnalignedOption = Annotated[
    bool, typer.Option("--unaligned", help="With --scale: sizes that ranks cannot share equally.")
]


@app.command("add")
def add(
    model: ModelArgument,
    name: Annotated[
        str | None, typer.Option(help="Its name in studies; default: derived from MODEL.")
    ] = None,
    scale: ScaleOption = None,
    unaligned: UnalignedOption = False,
    parameters: Annotated[
        int | None, typer.Option(help="The published number of parameters, to be checked.")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="The file; default models/NAME.yaml.")] = None,
) -> None:
    """Write a model file with configuration and shapes, which machines without torch can read.

    Example: hpz model add mistralai/Mixtral-8x7B-v0.1 --parameters 46702792704
    """
    content = _content(model, scale, unaligned, parameters)
    made = parse_model(content, model)
    if made.shapes is None:
        raise HarnessError(f"{model} is a model file already; to make a toy of it, give --scale")
    called = name or (toy_name(model_name(model), made.scale) if made.scale else model_name(model))
    file = output or Path("models") / f"{called}.yaml"
    text = model_text(content, counted=parameters is None)
    if file.exists() and file.read_text() != text:
        raise HarnessError(
            f"{file} is there and says otherwise; delete it, or give another --name or --output"
        )
    file.parent.mkdir(parents=True, exist_ok=True)
    write_text_whole(file, text)
    which = "counted; say --parameters to check it against the published number"
    print(f"{file}: {made.parameters:,} parameters ({which if parameters is None else 'as published'})")


@app.command("show")
def show(
    model: ModelArgument,
    scale: ScaleOption = None,
    unaligned: UnalignedOption = False,
    as_json: JsonOption = False,
) -> None:
    """What a model holds: its parameters by shape, and which numbers of ranks can share them equally.

    Example: hpz model show qwen3-30b-a3b
    """
    made = parse_model(_content(model, scale, unaligned, None), model)
    uneven = {world: len(unaligned_parameters(made, world)) for world in WORLDS}
    lines = compress(parameter_shapes(made))
    if as_json:
        found = {"source": made.source, "parameters": made.parameters, "config": made.config.model_dump()}
        print(json.dumps({**found, "shapes": lines, "unaligned": uneven}, indent=1))
        return
    console = wide_console(110)
    table = Table(
        "parameter", "shape", title=f"{model}: {made.parameters:,} parameters in {_count(made)} tensors"
    )
    table.add_column("elements of one", justify="right")
    for name, shape in lines.items():
        table.add_row(name, " × ".join(map(str, shape)), f"{prod(shape):,}")
    console.print(table)
    console.print(f"Family {made.config.model_type}, from {made.source}.", highlight=False)
    console.print(_alignment(uneven), highlight=False)


def _content(model: str, scale: int | None, unaligned: bool, parameters: int | None) -> dict[str, object]:
    if unaligned and scale is None:
        raise HarnessError("--unaligned: only a toy can be; give --scale with it, the toy's width, as 64")
    if scale is not None and parameters is not None:
        raise HarnessError("--parameters: no number is published for a toy; leave it out with --scale")
    return model_content(model, Path(), width=scale, unaligned=unaligned, parameters=parameters)


def _count(model: ModelFile) -> int:
    return len(parameter_shapes(model))


def _alignment(uneven: dict[int, int]) -> str:
    bad = [f"{count} at {world}" for world, count in uneven.items() if count]
    if not bad:
        return f"Every size divides by up to {WORLDS[-1]:,} ranks, so that the old copy of hpZ writes every element."
    return (
        f"Sizes that the ranks cannot share equally (hpz audit says what that costs): {', '.join(bad)} ranks."
    )
