"""Figures of what variants cost: host waits, bytes by link, and step times where their level says something."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from analysis.draw.figures import Figure
from analysis.draw.style import INK, MUTED, line_of
from analysis.judge.pairs import Matched
from analysis.judge.races import waits
from analysis.judge.settings import settings, shape_text
from analysis.judge.summary import SOUND, extra_host_syncs
from harness.system.errors import HarnessError

Record = Mapping[str, Any]
DRAWN_TIMES = (
    "multi-node",
    "one-gpu",
    "cpu",
    "simulated-time",
)  # not virtual: its clock is the simulator's own


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
    return _figure("host_waits", "Host waits per step beyond ZeRO-3's, per rank", rows, draw_waits)


def draw_waits(table: pd.DataFrame) -> Canvas:
    canvas, axes = _strip(table, "extra_host_waits_per_step")
    axes.set_xlabel("host waits per step beyond ZeRO-3 under the same policy")
    axes.axvline(0, color=MUTED, linewidth=0.8)
    return canvas


DOT: dict[str, Any] = {"markersize": 4, "markeredgecolor": "white", "markeredgewidth": 0.4}  # one pair
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
    return _figure("host_waits_by_line", title, list(rows.values()), draw_lines)


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
    return _figure("bytes_by_link", "Bytes that one node sends in a step", list(rows.values()), draw_bytes)


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
    return _figure("step_times", "Step time over the baseline's, median and interval", rows, draw_times)


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


def _figure(
    name: str, title: str, rows: list[dict[str, Any]], draw: Callable[[pd.DataFrame], Canvas]
) -> Figure:
    """A figure of rows that name their run in `run_id`, or several in the list `run_ids`."""
    if not rows:
        raise HarnessError(f"figure {name} needs at least one finished pair that counts; run the study again")
    ids = dict.fromkeys(one for row in rows for one in row.get("run_ids") or [row["run_id"]])
    table = pd.DataFrame(rows)
    if "run_ids" in table:
        table["run_ids"] = [" ".join(dict.fromkeys(found)) for found in table["run_ids"]]
    return Figure(name, title, table, tuple(ids), tuple(sorted(set(table["evidence"]))), draw)
