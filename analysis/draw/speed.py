"""Figures of throughput: tokens/s by variant, model and number of nodes, and what a step is made of."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from analysis.draw.figure import Figure, figure_of
from analysis.draw.style import DOT, GRID, INK, MUTED, PALETTE, line_of
from analysis.judge.speed import SPLIT, settings_apart

Record = Mapping[str, Any]
LEAST_STEPS = 20  # of a run whose throughput is worth a picture: the paper's form of one needs steady steps
COLUMNS = 3  # panels side by side
PARTS = {
    "forward": ("forward_seconds", PALETTE[5]),
    "backward": ("backward_seconds", PALETTE[0]),
    "optimizer": ("optimizer_seconds", PALETTE[2]),
    "rest": (None, GRID),
}


def speed_figures(summary: Record) -> list[Callable[[], Figure]]:
    """Tokens/s of studies whose runs are long enough, and the split of a step where it was recorded."""
    record = summary["throughput"]
    if record is None or min(run["steps"] for run in record["runs"]) < LEAST_STEPS or not record["groups"]:
        return []
    found = [lambda: throughput_figure(record)]
    if any(_whole(group["split"]) for group in record["groups"]):
        found.append(lambda: split_figure(record))
    return found


def per_rank(device: str, evidence: str) -> str:
    """What one rank is called: a GPU where each has its own."""
    return "GPU" if device == "cuda" and evidence == "multi-node" else "rank"


def throughput_figure(record: Record) -> Figure:
    """Tokens/s of one rank by number of nodes, one panel a model and setting, one line a variant."""
    rows = [
        {
            "model": group["model"],
            "settings": words,
            "variant": group["variant"],
            "nodes": group["shape"]["nodes"],
            "ranks": group["shape"]["nodes"] * group["shape"]["ranks_per_node"],
            "seeds": len(group["seeds"]),
            "interval_over": group["interval_over"],
            "per": per_rank(group["device"], group["evidence"]),
            "tokens_per_second_per_rank": rate["estimate"],
            "low": rate["low"],
            "high": rate["high"],
            "model_tflops_per_rank": group["model_tflops_per_rank"],
            "mfu": group["mfu"],
            "evidence": group["evidence"],
            "run_ids": group["run_ids"],
        }
        for group, words in zip(record["groups"], settings_apart(record["groups"]), strict=True)
        for rate in [group["tokens_per_second_per_rank"]]
    ]
    return figure_of("throughput", "Tokens per second by variant, model and nodes", rows, draw_throughput)


def draw_throughput(table: pd.DataFrame) -> Canvas:
    """Panels by model and setting; bars of the interval beside each other, so that near variants stay apart."""
    table = table.fillna({"settings": ""})
    canvas, panels = _panels(table)
    variants = sorted(dict.fromkeys(table["variant"]), key=lambda name: line_of(name).order)
    for axes, (_, mine) in panels:
        nodes = sorted(set(mine["nodes"]))
        for number, variant in enumerate(variants):
            part = mine[mine["variant"] == variant].sort_values("nodes")
            places = np.array([nodes.index(one) for one in part["nodes"]], dtype=float)
            places += 0.5 * ((number + 0.5) / len(variants) - 0.5)
            line = line_of(variant)
            axes.vlines(places, part["low"], part["high"], color=line.colour, linewidth=1.2)
            values = part["tokens_per_second_per_rank"]
            axes.plot(places, values, color=line.colour, linestyle=line.dash, linewidth=0.8, alpha=0.6)
            axes.plot(places, values, line.marker or "o", color=line.colour, **DOT, label=variant)
        axes.set_xticks(range(len(nodes)), [str(one) for one in nodes])
        axes.set_xlim(-0.5, len(nodes) - 0.5)
        axes.set_ylim(0, 1.1 * float(mine[["tokens_per_second_per_rank", "high"]].max().max()))
        axes.set_xlabel("nodes")
    for axes, _ in panels[::COLUMNS]:
        axes.set_ylabel(f"tokens/s a {table['per'].iloc[0]}")
    handles = _handles(axes for axes, _ in panels)
    named = [variant for variant in variants if variant in handles]
    canvas.legend(
        [handles[name] for name in named],
        ["ZeRO-3 (baseline)" if name == "zero3" else name for name in named],
        loc="outside lower center",
        ncols=len(named),
    )
    return canvas


def split_figure(record: Record) -> Figure:
    """Seconds of a step by part, one bar a variant, of the most nodes of each model."""
    rows = []
    most = {
        group["model"]: max(g["shape"]["nodes"] for g in record["groups"] if g["model"] == group["model"])
        for group in record["groups"]
    }
    for group, words in zip(record["groups"], settings_apart(record["groups"]), strict=True):
        if _whole(group["split"]) and group["shape"]["nodes"] == most[group["model"]]:
            parts = {name: group["split"][name] for name in SPLIT}
            rows.append(
                {
                    "model": group["model"],
                    "settings": words,
                    "variant": group["variant"],
                    "nodes": group["shape"]["nodes"],
                    **parts,
                    "step_seconds": group["step_seconds"],
                    "evidence": group["evidence"],
                    "run_ids": group["run_ids"],
                }
            )
    return figure_of(
        "step_split", "What a step is made of, on the most nodes of each model", rows, draw_split
    )


def _whole(split: Record | None) -> bool:
    names = ("forward_seconds", "backward_seconds", "optimizer_seconds")
    return split is not None and all(split[name] is not None for name in names)


def draw_split(table: pd.DataFrame) -> Canvas:
    """Bars of forward, backward, optimizer and the rest; hatched: exposed communication, inside the passes."""
    table = table.fillna({"settings": ""})
    canvas, panels = _panels(table, height=0.24 * table["variant"].nunique() + 0.75, share=True)
    for axes, (_, mine) in panels:
        variants = sorted(dict.fromkeys(mine["variant"]), key=lambda name: line_of(name).order)
        for row in mine.to_dict("records"):
            place, left = variants.index(row["variant"]), 0.0
            for name, (column, colour) in PARTS.items():
                width = row[column] if column else max(0.0, row["step_seconds"] - left)
                axes.barh(place, width, left=left, height=0.62, color=colour, label=name)
                left += width
            if not pd.isna(row["exposed_comm_seconds"]):
                exposed = row["exposed_comm_seconds"]
                axes.barh(
                    place,
                    exposed,
                    height=0.2,
                    color="none",
                    edgecolor=INK,
                    hatch="////",
                    linewidth=0.6,
                    label="exposed communication, inside the passes",
                )
        axes.set_yticks(range(len(variants)), variants)
        axes.set_ylim(len(variants) - 0.5, -0.5)
        axes.set_xlabel("seconds")
        axes.grid(visible=False, axis="y")
        axes.set_axisbelow(True)
    handles = _handles(axes for axes, _ in panels)
    canvas.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=len(handles))
    return canvas


def _handles(panels: Iterable[Axes]) -> dict[str, Any]:
    """What a legend shows for each label, over all panels."""
    pairs = (zip(*axes.get_legend_handles_labels(), strict=True) for axes in panels)
    return {name: handle for each in pairs for handle, name in each}


def _panels(
    table: pd.DataFrame, height: float = 2.1, share: bool = False
) -> tuple[Canvas, list[tuple[Axes, tuple[Any, pd.DataFrame]]]]:
    """One panel a model and setting, at most COLUMNS side by side."""
    keys = list(dict.fromkeys(table[["model", "settings"]].itertuples(index=False, name=None)))
    columns = min(COLUMNS, len(keys))
    rows = -(-len(keys) // columns)
    canvas, grid = plt.subplots(
        rows,
        columns,
        figsize=(1.1 + 2.15 * columns, 0.35 + height * rows),
        squeeze=False,
        layout="constrained",
    )
    for unused in grid.flat[len(keys) :]:
        unused.set_visible(False)
    panels = []
    for axes, key in zip(grid.flat, keys, strict=False):
        mine = table[(table["model"] == key[0]) & (table["settings"] == key[1])]
        nodes = f", {mine['nodes'].iloc[0]} nodes" if share else ""
        axes.set_title("\n".join(filter(None, (f"{key[0]}{nodes}", key[1]))))
        axes.tick_params(colors=MUTED, labelcolor=INK)
        panels.append((axes, (key, mine)))
    return canvas, panels
