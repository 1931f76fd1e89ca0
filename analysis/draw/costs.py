"""Figures of what variants cost: host waits, bytes by link, and step times where their level says something."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from analysis.draw.figure import Figure, figure_of
from analysis.draw.settings import shape_text
from analysis.draw.style import DOT, MUTED, line_of
from analysis.draw.times import DRAWN_TIMES, speeds_figure, times_figure
from analysis.judge.evidence import extra_host_syncs
from analysis.judge.pairs import Matched
from analysis.judge.races import waits

Record = Mapping[str, Any]


def cost_figures(summary: Record) -> list[Callable[[], Figure]]:
    """The cost figures for which the study has data; calling one raises where a run that it needs is missing."""
    found: list[Callable[[], Figure]] = []
    if any(extra_host_syncs(pair, summary["pairs"]) is not None for pair in summary["pairs"]):
        found.append(lambda: waits_figure(summary))
    if summary["audit"]:
        found.append(lambda: bytes_figure(summary))
    if any(record["speed_up"] for record in summary["wire"]):
        found.append(lambda: speeds_figure(summary))
    if any(pair["evidence"] in DRAWN_TIMES and pair["step_seconds_ratio"] for pair in summary["pairs"]):
        found.append(lambda: times_figure(summary))
    return found


def waits_figure(summary: Record) -> Figure:
    """Host waits per step beyond ZeRO-3's, of every sound pair that has a ZeRO-3 run under its policy."""
    rows = [
        {
            "variant": pair["variant"],
            "model": pair["model"],
            "policy": pair["schedule"],
            "extra_host_waits_per_step": extra,
            "evidence": pair["evidence"],
            "run_id": pair["run_id"],
        }
        for pair in summary["pairs"]
        if (extra := extra_host_syncs(pair, summary["pairs"])) is not None
    ]
    return figure_of("host_waits", "Host waits per step beyond ZeRO-3's, per rank", rows, draw_waits)


def draw_waits(table: pd.DataFrame) -> Canvas:
    canvas, axes = _strip(table, "extra_host_waits_per_step")
    axes.set_xlabel("host waits per step beyond ZeRO-3 under the same policy")
    axes.axvline(0, color=MUTED, linewidth=0.8)
    return canvas


LINES_SHOWN = 16  # of a figure; the table holds them all


def lines_figure(matched: Matched) -> Figure | None:
    """Host waits of analysed runs by DeepSpeed's source lines, in the newest release; None where none was analysed.

    A number is the mean over the runs of a variant, of rank 0 and of the whole run, set-up included.
    """
    found = [wait for wait in waits(matched) if wait.place.startswith("deepspeed/")]
    if not found:
        return None
    newest = max((wait.release for wait in found), key=lambda text: [*map(int, text.split("."))])
    found = [wait for wait in found if wait.release == newest]
    runs = {name: {w.run_id for w in found if w.variant == name} for name in {w.variant for w in found}}
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for wait in found:
        row = rows.setdefault(
            (wait.variant, wait.place),
            {
                "release": newest,
                "variant": wait.variant,
                "line": wait.place,
                "reason": wait.reason,
                "waits_per_run": 0.0,
                "evidence": "virtual-device",
                "run_ids": sorted(runs[wait.variant]),
            },
        )
        row["waits_per_run"] += wait.count / len(runs[wait.variant])
    title = f"DeepSpeed {newest}: host waits of a run by source line, set-up included"
    return figure_of("host_waits_by_line", title, list(rows.values()), draw_lines)


def draw_lines(table: pd.DataFrame) -> Canvas:
    """A grid of source lines by variants; a line that patches move is shown with the range of its numbers."""
    parts = table["line"].str.extract(r"(?P<file>[^/]+):(?P<number>\d+) ?(?P<function>.*)")
    table = table.assign(**parts.assign(number=parts["number"].astype(int)))
    # The same wait lies a few lines further down in a patched file, so order among a function's waits names it.
    table["nth"] = table.groupby(["variant", "file", "function"])["number"].rank(method="dense").astype(int)
    names = ["file", "function", "nth", "reason"]
    grid = table.pivot_table(index=names, columns="variant", values="waits_per_run", aggfunc="sum")
    grid = grid.loc[grid.max(axis=1).sort_values(ascending=False, kind="stable").index[:LINES_SHOWN]]
    ends = table.groupby(names)["number"].agg(["min", "max"])
    variants = list(dict.fromkeys(table["variant"]))
    values = grid[variants].fillna(0).to_numpy()
    canvas, axes = plt.subplots(
        figsize=(5.2 + 0.55 * len(variants), 1.4 + 0.25 * len(grid)), layout="constrained"
    )
    axes.imshow(values, aspect="auto", cmap="Blues", vmin=0, vmax=1.6 * values.max())
    for (y, x), value in np.ndenumerate(values):
        axes.text(x, y, f"{value:.3g}" if value else "·", ha="center", va="center", fontsize=7.5)
    labels = []
    for key in grid.index:
        first, last = ends.loc[key]
        labels.append(f"{key[0]}:{first}{f'–{last}' if last > first else ''} {key[1]} ({key[3]})")
    axes.set_yticks(range(len(grid)), labels, fontsize=7)
    axes.set_xticks(range(len(variants)), variants, rotation=45, ha="right")
    axes.grid(False)
    axes.tick_params(length=0)
    return canvas


WHERE = {"between nodes": "", "inside a node": "_intra"}  # part of the node's bytes → part of the audit's key


def bytes_figure(summary: Record) -> Figure:
    """Bytes that a node sends in a step, to others and inside itself: recorded bars, the formula as a tick.

    They do not depend on the link's rate, so studies of several links show each configuration once.
    """
    rows: dict[str, dict[str, Any]] = {}
    for row in summary["audit"]:
        for sharding, key, ids in (("ZeRO-3", "zero3", "baseline_run_ids"), ("hpZ", "hpz", "run_ids")):
            for where, part in WHERE.items():
                content = {
                    "model": row["model"],
                    "shape": shape_text(row["shape"] | {"hpz": 1}),
                    "accumulation": row["gradient_accumulation"],
                    "recompute": row["recompute"],
                    "variants": ", ".join(row["variants"]),
                    "sharding": sharding,
                    "where": where,
                    "bytes": row[f"{key}{part}_bytes"],
                    "formula": row[f"{key}{part}_formula"],
                    "evidence": row["evidence"],
                }
                rows.setdefault(str(content), {**content, "run_ids": []})["run_ids"] += row[ids]
    return figure_of("bytes_by_link", "Bytes that one node sends in a step", list(rows.values()), draw_bytes)


def draw_bytes(table: pd.DataFrame) -> Canvas:
    table = table.assign(label=_bytes_labels(table))
    groups = list(dict.fromkeys(table["label"]))
    canvas, panels = plt.subplots(
        1, 2, figsize=(7.4, 0.9 + 0.5 * len(groups)), sharex=True, sharey=True, layout="constrained"
    )
    largest = max(table["bytes"].max(), table["formula"].max())
    scale, unit = next((s, u) for s, u in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1, "B")) if largest >= s)
    for panel, where in zip(panels, WHERE, strict=True):
        for row in table[table["where"] == where].to_dict("records"):
            zero3 = row["sharding"] == "ZeRO-3"
            y = groups.index(row["label"]) + (-0.19 if zero3 else 0.19)
            colour = line_of("zero3" if zero3 else "fixed").colour
            panel.barh(y, row["bytes"] / scale, height=0.34, color=colour, alpha=0.85)
            panel.plot([row["formula"] / scale] * 2, [y - 0.17, y + 0.17], color="#d55e00", linewidth=1.6)
            end = max(row["bytes"], row["formula"]) / scale
            panel.text(end, y, f"  {row['sharding']}", va="center", fontsize=7.5)
        panel.set_title(where)
        panel.set_xlabel(f"{unit} per step (tick: by formula)")
        panel.grid(False, axis="y")
    panels[0].set_yticks(range(len(groups)), groups)
    panels[0].set_ylim(len(groups) - 0.4, -0.6)
    panels[0].set_xlim(0, 1.25 * largest / scale)
    return canvas


def _bytes_labels(table: pd.DataFrame) -> list[str]:
    """What sets a configuration apart: variants where one configuration has rows of several, all else always."""
    several = table.groupby(["model", "shape", "accumulation", "recompute"])["variants"].nunique().max() > 1
    return [
        f"{row.model}, {row.shape}, g={row.accumulation}"
        + (", recompute" if row.recompute else "")
        + (f"\n{row.variants}" if several else "")
        for row in table.itertuples()
    ]


def _strip(table: pd.DataFrame, value: str) -> tuple[Canvas, Axes]:
    """One row a variant, one dot a pair, spread so that all are seen."""
    variants = list(dict.fromkeys(table["variant"]))
    canvas, axes = plt.subplots(figsize=(6.4, 0.8 + 0.34 * len(variants)), layout="constrained")
    for place, variant in enumerate(variants):
        part = table[table["variant"] == variant]
        heights = place + (np.linspace(-0.22, 0.22, len(part)) if len(part) > 1 else np.zeros(1))
        colour = line_of(variant).colour
        axes.plot(
            part[value],
            heights,
            "o",
            color=colour,
            **DOT,
        )
    axes.set_yticks(range(len(variants)), variants)
    axes.set_ylim(len(variants) - 0.5, -0.5)
    return canvas, axes
