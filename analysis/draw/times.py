"""Figures of time: steps against the baseline's, and speed by link beside what the bytes allow."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from analysis.draw.figure import Figure, figure_of
from analysis.draw.settings import settings
from analysis.draw.style import DOT, INK, MUTED, line_of
from analysis.judge.evidence import SOUND

Record = Mapping[str, Any]

DRAWN_TIMES = (
    "multi-node",
    "one-gpu",
    "cpu",
    "simulated-time",
)  # not virtual: its clock is the simulator's own


def times_figure(summary: Record) -> Figure:
    """Step time of each pair over its baseline's, with interval and outliers; only of levels at which time is time."""
    pairs = [
        pair
        for pair in summary["pairs"]
        if pair["evidence"] in DRAWN_TIMES and pair["step_seconds_ratio"] and pair["verdict"] in SOUND
    ]
    rows = [
        {
            "variant": pair["variant"],
            "model": pair["model"],
            "policy": pair["schedule"],
            "settings": setting,
            "seed": pair["seed"],
            "ratio": ratio["median"],
            "low": ratio["low"],
            "high": ratio["high"],
            "blocks": ratio["n"],
            "spread": ratio["spread"],
            "outliers": " ".join(f"{one:.6g}" for one in ratio["outlier_ratios"]),
            "evidence": pair["evidence"],
            "run_id": pair["run_id"],
        }
        for pair, setting in zip(pairs, settings(pairs), strict=True)
        for ratio in [pair["step_seconds_ratio"]]
    ]
    return figure_of("step_times", "Step time over the baseline's, median and interval", rows, draw_times)


def draw_times(table: pd.DataFrame) -> Canvas:
    """One row a model, order and setting, one dot a pair in the colour of its variant."""
    table = table.fillna({"settings": "", "outliers": ""})  # read back from csv, an empty text is missing
    names = [name for name in ("model", "policy", "settings") if table[name].nunique() > 1] or ["model"]
    labels = pd.Series([", ".join(filter(None, row)) for row in table[names].itertuples(index=False)])
    groups, variants = list(dict.fromkeys(labels)), list(dict.fromkeys(table["variant"]))
    canvas, axes = plt.subplots(
        figsize=(6.4, 1.0 + max(0.3, 0.13 * len(variants)) * len(groups)), layout="constrained"
    )
    for number, variant in enumerate(variants):
        for place, group in enumerate(groups):
            part = table[(labels == group) & (table["variant"] == variant)]
            _draw_ratios(axes, part, place + 0.7 * ((number + 0.5) / len(variants) - 0.5), variant)
    blocks = sorted(set(table["blocks"]))
    count = f"{blocks[0]}" if len(blocks) == 1 else f"{blocks[0]} to {blocks[-1]}"
    axes.set_xlabel(
        f"step time / baseline's: median of {count} blocks, interval; hollow: a block that stands out"
    )
    axes.axvline(1, color=MUTED, linewidth=0.8)
    axes.set_yticks(range(len(groups)), groups)
    axes.set_ylim(len(groups) - 0.5, -0.5)
    canvas.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=len(variants))
    return canvas


def _draw_ratios(axes: Axes, part: pd.DataFrame, height: float, variant: str) -> None:
    """The seeds of one variant and setting, beside each other."""
    colour = line_of(variant).colour
    heights = height + np.linspace(-0.06, 0.06, len(part)) if len(part) > 1 else np.full(len(part), height)
    axes.hlines(heights, part["low"], part["high"], color=colour, linewidth=1.2)
    known = variant in axes.get_legend_handles_labels()[1]
    axes.plot(
        part["ratio"],
        heights,
        "o",
        color=colour,
        **DOT,
        label="_" if known or part.empty else variant,
    )
    for place, odd in zip(heights, part["outliers"], strict=True):
        values = [float(one) for one in str(odd).split()]
        axes.plot(values, [place] * len(values), "o", markersize=3, markerfacecolor="none", color=colour)


def speeds_figure(summary: Record) -> Figure:
    """Speed over the baseline's for each link and accumulation, beside what the bytes on the wire allow."""
    columns = (
        "link",
        "gradient_accumulation",
        "variant",
        "model",
        "speed_up",
        "speed_up_low",
        "speed_up_high",
    )
    rows = [
        {key: record[key] for key in (*columns, "byte_ratio", "ring_byte_ratio", "evidence", "run_id")}
        for record in summary["wire"]
        if record["speed_up"]
    ]
    return figure_of("speed_by_link", "Speed over ZeRO-3's by link, median and interval", rows, draw_speeds)


def draw_speeds(table: pd.DataFrame) -> Canvas:
    links = list(dict.fromkeys(table["link"].fillna("as it is")))
    accumulations, variants = (
        sorted(set(table["gradient_accumulation"])),
        list(dict.fromkeys(table["variant"])),
    )
    canvas, panels = plt.subplots(
        1, len(links), figsize=(1.2 + 2.1 * len(links), 2.5), sharey=True, squeeze=False, layout="constrained"
    )
    for panel, link in zip(panels.flat, links, strict=True):
        mine = table[table["link"].fillna("as it is") == link]
        for number, variant in enumerate(variants):
            part = mine[mine["variant"] == variant]
            places = np.array([accumulations.index(g) for g in part["gradient_accumulation"]])
            places = places + 0.3 * (number - (len(variants) - 1) / 2) / max(1, len(variants) - 1)
            colour = line_of(variant).colour
            panel.vlines(places, part["speed_up_low"], part["speed_up_high"], color=colour, linewidth=1.2)
            panel.plot(places, part["speed_up"], "o", color=colour, markersize=4, label=variant)
        allowed = mine.groupby("gradient_accumulation")["byte_ratio"].max()
        for accumulation, ratio in allowed.items():
            place = accumulations.index(accumulation)
            panel.hlines(ratio, place - 0.32, place + 0.32, color=INK, linewidth=1.2, linestyle=":")
        panel.axhline(1, color=MUTED, linewidth=0.8)
        panel.set_xticks(range(len(accumulations)), [str(g) for g in accumulations])
        panel.set_title(link)
        panel.set_xlabel("micro-batches a step")
    panels.flat[0].set_ylabel("speed / ZeRO-3's\n(dotted: bytes allow)")
    known = panels.flat[0].get_legend_handles_labels()
    canvas.legend(*known, loc="outside lower center", ncols=len(variants), fontsize=7)
    return canvas
