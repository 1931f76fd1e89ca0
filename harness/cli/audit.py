"""`hpz audit`: which parameters of a model hpZ's old copy never writes in full, for each number of nodes."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Annotated

import typer

from harness.cli.console import wide_console
from harness.study.models import load_model_file
from harness.system.errors import HarnessError


def audit(
    model_file: Annotated[Path, typer.Argument(metavar="MODEL", help="A file of experiments/models.")],
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
    as_json: Annotated[
        bool, typer.Option("--json", help="Machine-readable output on standard output.")
    ] = False,
) -> None:
    """Map the missing copy. Example: hpz audit experiments/models/llama2-70b.yaml --nodes 1-64"""
    from analysis.draw.missing import answer, by_nodes, missing_map, missing_table, parameter_table

    if ranks_per_node < 1:
        raise HarnessError(f"--ranks-per-node: {ranks_per_node} is not a number of ranks; give 1 or more")
    rows = missing_map(load_model_file(model_file), parse_nodes(nodes), ranks_per_node, hpz, release)
    files: list[Path] = []
    if out is not None:
        from analysis.draw.missing import missing_figure

        files = missing_figure(rows, model_file.stem).write(out)
    said = answer(rows, release)
    if as_json:
        parameters = [{**vars(row), "share": row.share} for row in rows]
        print(json.dumps({"answer": said, "nodes": by_nodes(rows), "parameters": parameters}, indent=1))
        return
    console, single = wide_console(110), len({row.nodes for row in rows}) == 1
    title = f"{model_file.stem}, DeepSpeed {release}: what the copy into the secondary tensor never writes"
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
