"""The missing-copy map: which parameters of a model hpZ's old copy never writes in full, for each number of nodes.

Computed from sizes alone (harness.diagnose.missing_copy), so no DeepSpeed, torch or run is needed. The map holds for
releases up to 0.13.4 and for every variant with the old copy; since 0.13.5 (#5216) nothing is missing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache, partial
from math import prod
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.figure import Figure as Canvas
from rich.table import Table

from analysis.draw.figure import Figure, distinct, file_name
from analysis.draw.style import INK, MUTED
from harness.diagnose import new_copy_raises, old_copy
from harness.study import ModelFile, Run, Study, parameter_shapes, parse_model
from harness.system.errors import HarnessError
from harness.variants import Variant

FIRST_HPZ = (0, 10, 0)  # deepspeedai/DeepSpeed#3784
FIRST_RIGHT_COPY = (0, 13, 5)  # #5216
FIRST_ZERO_FILL = (0, 19, 5)  # #8210


@dataclass(frozen=True)
class Missing:
    """Never-written elements of one kind of parameter (the same in every layer) on one cluster."""

    nodes: int
    world_size: int
    hpz: int
    parameter: str  # layer numbers replaced by *
    count: int  # parameters of this kind
    elements: int  # of one of them
    unwritten: int  # valid secondary elements never written, of one of them, over all ranks
    valid: int  # valid secondary elements of one of them, over all ranks
    raises: bool  # the release stops with an error on this size instead

    @property
    def share(self) -> float:
        return self.unwritten / self.valid if self.valid else 0.0


def missing_map(
    model: ModelFile,
    nodes: Iterable[int],
    ranks_per_node: int,
    hpz: int | None = None,
    release: str = "0.13.4",
) -> list[Missing]:
    """One row for each kind of parameter and number of nodes; `hpz` None: one node's ranks. Raises HarnessError."""
    kinds: dict[tuple[str, int], int] = {}
    for name, shape in parameter_shapes(model):
        key = (re.sub(r"\.\d+\.", ".*.", name), prod(shape))
        kinds[key] = kinds.get(key, 0) + 1
    size = hpz or ranks_per_node
    return [
        _row(count, nodes_now, ranks_per_node, size, name, elements, _version(release))
        for nodes_now in nodes
        for (name, elements), count in kinds.items()
    ]


def _row(
    count: int, nodes: int, ranks: int, hpz: int, name: str, elements: int, release: tuple[int, ...]
) -> Missing:
    world = nodes * ranks
    unwritten, valid, raises = _sizes(elements, world, hpz)
    if release >= FIRST_RIGHT_COPY:
        unwritten, raises = 0, release < FIRST_ZERO_FILL and new_copy_raises(elements, world, hpz)
    return Missing(nodes, world, hpz, name, count, elements, unwritten, valid, raises)


@cache
def _sizes(elements: int, world: int, hpz: int) -> tuple[int, int, bool]:
    slices = old_copy(elements, world, hpz)
    return int(slices.unwritten.sum()), int(slices.valid.sum()), bool(slices.raises.any())


def _version(release: str) -> tuple[int, ...]:
    found = re.match(r"\d+(\.\d+)+", release)
    if not found:
        raise HarnessError(f"--release: {release!r} is not a DeepSpeed release; write it as 0.13.4")
    version = tuple(int(part) for part in found.group().split("."))
    if version < FIRST_HPZ:
        raise HarnessError(
            f"--release: hpZ came with DeepSpeed 0.10.0; {release} has no secondary partitions"
        )
    return version


def by_nodes(rows: list[Missing]) -> list[dict[str, Any]]:
    """The map summed over parameters: one row for each number of nodes."""
    table = []
    for nodes in dict.fromkeys(row.nodes for row in rows):
        mine = [row for row in rows if row.nodes == nodes]
        unwritten = sum(row.unwritten * row.count for row in mine)
        table.append(
            {
                "nodes": nodes,
                "world_size": mine[0].world_size,
                "hpz": mine[0].hpz,
                "parameters": sum(row.count for row in mine),
                "parameters_missing": sum(row.count for row in mine if row.unwritten),
                "parameters_that_raise": sum(row.count for row in mine if row.raises),
                "elements_missing": unwritten,
                "share_missing": unwritten / sum(row.valid * row.count for row in mine),
            }
        )
    return table


def answer(rows: list[Missing], release: str) -> str:
    """What the map says, in sentences."""
    return " ".join(part for part in (_answer_missing(rows, release), _answer_stops(rows)) if part)


def _answer_missing(rows: list[Missing], release: str) -> str:
    if _version(release) >= FIRST_RIGHT_COPY:
        return f"Never written: none, since 0.13.5 (#5216); DeepSpeed {release} copies every element."
    table = by_nodes(rows)
    bad = [row for row in table if row["elements_missing"]]
    if not bad:
        return (
            "Never written: none; every size divides by every world size here, or one group holds all ranks."
        )
    worst = max(bad, key=lambda row: row["share_missing"])
    complete = ", ".join(str(row["nodes"]) for row in table if not row["elements_missing"])
    return (
        f"Elements are never written at {len(bad)} of {len(table)} node counts, at {worst['nodes']} nodes "
        f"{worst['share_missing']:.1%} of all; upgrade to 0.13.5 or later. "
        f"Complete at these node counts: {complete or 'none'}."
    )


def _answer_stops(rows: list[Missing]) -> str:
    hit = [row for row in rows if row.raises]
    if not hit:
        return ""
    nodes, smallest = sorted({row.nodes for row in hit}), min(hit, key=lambda row: row.elements)
    others = f" and {len(nodes) - 1} more node counts" if len(nodes) > 1 else " nodes"
    return (
        f"Training stops with an error at {nodes[0]}{others}: {smallest.parameter} has {smallest.elements} elements, "
        "too few for that world; 0.19.5 and later (#8210) take any size."
    )


def parameter_table(rows: list[Missing], title: str) -> Table:
    """The map of one number of nodes, by kind of parameter, for the terminal."""
    table = Table(title=title, title_justify="left")
    table.add_column("parameter", no_wrap=True)
    for name in (
        "parameters",
        "elements of each",
        "never written, all ranks",
        "share",
        "stops with an error",
    ):
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(
            row.parameter,
            str(row.count),
            f"{row.elements:,}",
            f"{row.unwritten * row.count:,}",
            f"{row.share:.2%}",
            "yes" if row.raises else "–",
            style="red" if row.unwritten or row.raises else "",
        )
    return table


def missing_table(rows: list[Missing], title: str) -> Table:
    """The map by nodes for the terminal."""
    table = Table(title=title, title_justify="left")
    for name in (
        "nodes",
        "ranks",
        "hpZ",
        "parameters with holes",
        "elements never written",
        "share",
        "stops with an error",
    ):
        table.add_column(name, justify="right")
    for row in by_nodes(rows):
        hit = row["parameters_missing"] > 0
        table.add_row(
            str(row["nodes"]),
            str(row["world_size"]),
            str(row["hpz"]),
            f"{row['parameters_missing']} of {row['parameters']}",
            f"{row['elements_missing']:,}",
            f"{row['share_missing']:.2%}",
            str(row["parameters_that_raise"] or "–"),
            style="red" if hit else "",
        )
    return table


FURTHER, MOST_NODES = (
    8,
    64,
)  # a study's map goes this many times beyond its own nodes, but no further than that


def missing_figures(study: Study) -> list[Callable[[], Figure]]:
    """The map of each model that the study runs with the old copy, at its own number of nodes and beyond."""
    old = [run for run in study.runs if run.shape.hpz > 1 and Variant.parse(run.variant).copy == "old"]
    found = {(run.model, run.shape.ranks_per_node, run.shape.hpz): run for run in old}
    most = min(MOST_NODES, FURTHER * max((run.shape.nodes for run in old), default=0))
    names = distinct([run.model for run in found.values()])
    return [partial(_figure_of, run, name, most) for run, name in zip(found.values(), names, strict=True)]


def _figure_of(run: Run, name: str, most: int) -> Figure:
    """The map of a run's model on its kind of node, at every number of nodes that its hpZ groups fill."""
    ranks, hpz = run.shape.ranks_per_node, run.shape.hpz
    least = max(1, hpz // ranks)
    model = parse_model(run.model_spec, f"model {run.model}")
    return missing_figure(missing_map(model, range(least, most + 1, least), ranks, hpz), name)


def missing_figure(rows: list[Missing], name: str) -> Figure:
    """Heat map: kinds of parameters by number of nodes, the share of elements that is never written."""
    table = pd.DataFrame([{**vars(row), "share": row.share} for row in rows])
    title = f"{name}: share of secondary elements that the old copy never writes"
    return Figure(file_name(f"missing-copy_{name}"), title, table, (), ("computed from sizes",), draw_missing)


def draw_missing(table: pd.DataFrame) -> Canvas:
    kinds, nodes = list(dict.fromkeys(table["parameter"])), list(dict.fromkeys(table["nodes"]))
    shares = table.pivot_table(index="parameter", columns="nodes", values="share", aggfunc="max")
    values = shares.loc[kinds, nodes].to_numpy()
    canvas, axes = plt.subplots(
        figsize=(4.6 + 0.13 * len(nodes), 1.0 + 0.24 * len(kinds)), layout="constrained"
    )
    # What is complete stays white, so that the smallest hole is still seen.
    image = axes.imshow(
        np.where(values > 0, values, np.nan),
        aspect="auto",
        cmap="cividis_r",
        vmin=0,
        vmax=max(values.max(), 0.01),
    )
    stops = table[table["raises"]]
    places = [[nodes.index(n) for n in stops["nodes"]], [kinds.index(kind) for kind in stops["parameter"]]]
    for colour, width in (("white", 3.0), (INK, 1.0)):  # seen on dark cells and on white ones
        axes.plot(*places, "x", color=colour, markersize=5, markeredgewidth=width, zorder=5)
    counts = dict(zip(table["parameter"], table["count"], strict=True))
    axes.set_yticks(range(len(kinds)), [f"{kind} × {counts[kind]}" for kind in kinds])
    ticks = range(0, len(nodes), max(1, len(nodes) // 8))
    axes.set_xticks(list(ticks), [str(nodes[tick]) for tick in ticks])
    crosses = "; cross: a rank stops with an error" if len(stops) else ""
    axes.set_xlabel(f"nodes (white: everything is written{crosses})")
    axes.grid(False)
    axes.set_xticks(np.arange(len(nodes)) - 0.5, minor=True)
    axes.set_yticks(np.arange(len(kinds)) - 0.5, minor=True)
    axes.grid(True, which="minor", color=MUTED, linewidth=0.2)
    axes.tick_params(which="minor", length=0)
    canvas.colorbar(image, ax=axes, format=lambda value, _: f"{value:.0%}", shrink=0.9)
    return canvas
