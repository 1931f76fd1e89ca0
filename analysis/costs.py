"""Figures of what variants cost: host waits, bytes by link, and step times where their level says something."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from analysis.figures import Figure
from analysis.style import INK, MUTED, line_of
from analysis.summary import SOUND, extra_host_syncs
from harness.errors import HarnessError

Record = Mapping[str, Any]
TIMED = ("multi-node", "one-gpu", "cpu", "simulated-time")


def cost_figures(summary: Record) -> list[Callable[[], Figure]]:
    """The cost figures for which the study has data; calling one raises where a run that it needs is missing."""
    found: list[Callable[[], Figure]] = []
    if any(extra_host_syncs(pair, summary["pairs"]) is not None for pair in summary["pairs"]):
        found.append(lambda: waits_figure(summary))
    if summary["audit"]:
        found.append(lambda: bytes_figure(summary))
    if any(record["speed_up"] for record in summary["wire"]):
        found.append(lambda: speeds_figure(summary))
    if any(pair["evidence"] in TIMED and pair["step_seconds_ratio"] for pair in summary["pairs"]):
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
    return _figure("host_waits", "Host waits per step beyond ZeRO-3's, per rank", rows, draw_waits)


def draw_waits(table: pd.DataFrame) -> Canvas:
    canvas, axes = _strip(table, "extra_host_waits_per_step")
    axes.set_xlabel("host waits per step beyond ZeRO-3 under the same policy")
    axes.axvline(0, color=MUTED, linewidth=0.8)
    return canvas


def bytes_figure(summary: Record) -> Figure:
    """Bytes that a node sends to other nodes in a step: recorded bars, the formula as a tick."""
    rows = [
        {
            "model": row["model"],
            "shape": f"{row['shape']['nodes']}x{row['shape']['ranks_per_node']}",
            "accumulation": row["gradient_accumulation"],
            "sharding": name,
            "bytes": row[f"{key}_bytes"],
            "formula": row[f"{key}_formula"],
            "evidence": row["evidence"],
            "run_id": row["run_ids"][0],
        }
        for row in summary["audit"]
        for name, key in (("ZeRO-3", "zero3"), ("hpZ", "hpz"))
    ]
    return _figure(
        "bytes_between_nodes", "Bytes that one node sends to other nodes in a step", rows, draw_bytes
    )


def draw_bytes(table: pd.DataFrame) -> Canvas:
    labels = [f"{r.model}, {r.shape}, g={r.accumulation}" for r in table.itertuples()]
    groups = list(dict.fromkeys(labels))
    canvas, axes = plt.subplots(figsize=(6.4, 0.9 + 0.5 * len(groups)), layout="constrained")
    scale, unit = (
        (1e9, "GB")
        if table["bytes"].max() > 1e9
        else (1e6, "MB")
        if table["bytes"].max() > 1e6
        else (1e3, "kB")
    )
    for label, row in zip(labels, table.to_dict("records"), strict=True):
        y = groups.index(label) + (-0.19 if row["sharding"] == "ZeRO-3" else 0.19)
        colour = line_of("zero3" if row["sharding"] == "ZeRO-3" else "fixed").colour
        axes.barh(y, row["bytes"] / scale, height=0.34, color=colour, alpha=0.85)
        axes.plot([row["formula"] / scale] * 2, [y - 0.17, y + 0.17], color="#d55e00", linewidth=1.6)
        axes.text(
            max(row["bytes"], row["formula"]) / scale, y, f"  {row['sharding']}", va="center", fontsize=7.5
        )
    axes.set_yticks(range(len(groups)), groups)
    axes.set_ylim(len(groups) - 0.4, -0.6)
    axes.set_xlim(0, 1.15 * max(table["bytes"].max(), table["formula"].max()) / scale)
    axes.set_xlabel(f"{unit} per step (tick: by formula)")
    axes.grid(False, axis="y")
    return canvas


def times_figure(summary: Record) -> Figure:
    """Step time of each pair over its baseline's, with its interval; only of levels at which time is time."""
    rows = [
        {
            "variant": pair["variant"],
            "model": pair["model"],
            "policy": pair["policy"],
            "seed": pair["seed"],
            "ratio": pair["step_seconds_ratio"]["median"],
            "low": pair["step_seconds_ratio"]["low"],
            "high": pair["step_seconds_ratio"]["high"],
            "blocks": pair["step_seconds_ratio"]["n"],
            "evidence": pair["evidence"],
            "run_id": pair["run_id"],
        }
        for pair in summary["pairs"]
        if pair["evidence"] in TIMED and pair["step_seconds_ratio"] and pair["verdict"] in SOUND
    ]
    return _figure("step_times", "Step time over the baseline's, median and interval", rows, draw_times)


def draw_times(table: pd.DataFrame) -> Canvas:
    canvas, axes = _strip(table, "ratio")
    axes.set_xlabel("step time / baseline's step time")
    axes.axvline(1, color=MUTED, linewidth=0.8)
    return canvas


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
    return _figure("speed_by_link", "Speed over ZeRO-3's by link, median and interval", rows, draw_speeds)


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


def _strip(table: pd.DataFrame, value: str) -> tuple[Canvas, Axes]:
    """One row a variant, one dot a pair (with its interval where the table has one), spread so that all are seen."""
    variants = list(dict.fromkeys(table["variant"]))
    canvas, axes = plt.subplots(figsize=(6.4, 0.8 + 0.34 * len(variants)), layout="constrained")
    for place, variant in enumerate(variants):
        part = table[table["variant"] == variant]
        heights = place + (np.linspace(-0.22, 0.22, len(part)) if len(part) > 1 else np.zeros(1))
        colour = line_of(variant).colour
        if "low" in part:
            axes.hlines(heights, part["low"], part["high"], color=colour, linewidth=1.2)
        axes.plot(
            part[value],
            heights,
            "o",
            color=colour,
            markersize=4,
            markeredgecolor="white",
            markeredgewidth=0.4,
        )
    axes.set_yticks(range(len(variants)), variants)
    axes.set_ylim(len(variants) - 0.5, -0.5)
    return canvas, axes


def _figure(
    name: str, title: str, rows: list[dict[str, Any]], draw: Callable[[pd.DataFrame], Canvas]
) -> Figure:
    if not rows:
        raise HarnessError(f"figure {name} needs at least one finished pair that counts; run the study again")
    table = pd.DataFrame(rows)
    return Figure(
        name, title, table, tuple(dict.fromkeys(table["run_id"])), tuple(sorted(set(table["evidence"]))), draw
    )
