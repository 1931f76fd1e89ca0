"""Figures of the window in simulated time: where a gather overtakes its copy, and by how much."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.figure import Figure as Canvas
from matplotlib.patches import Rectangle

from analysis.draw.figure import Figure
from analysis.draw.simulated_panels import figure, grid, short
from analysis.draw.style import MUTED, PALETTE
from analysis.judge.trust import records
from harness.simulate.records import Simulated
from harness.simulate.tables import windows


def window_figure(simulated: Simulated) -> Figure:
    """The least margin of each setting and network, and over its range how many gathers overtake their copy."""
    table = windows(simulated)
    table = table[table["parameters_gathered"] > 0]
    table = table.assign(case=[_window_case(row) for _, row in table.iterrows()])
    keep = [
        "case",
        "network",
        "margin_min_us",
        "margin_median_us",
        "overtaken",
        "overtaken_low",
        "overtaken_high",
        "margin_min_us_low",
        "margin_min_us_high",
        "parameters_gathered",
        "verdict",
    ]
    return figure(
        "simulated_windows",
        "Where a gather overtakes its copy",
        table[[*keep, "run_id", "evidence"]],
        draw_windows,
    )


def _window_case(row: Any) -> str:
    parts = [str(row["model"]), f"{row['gpus']} GPUs", f"batch {row['micro_batch']}"]
    parts += [f"{row['gradient_accumulation']} micro-batches"] if row["gradient_accumulation"] > 1 else []
    parts += [] if row["activation_checkpointing"] else ["no recompute"]
    parts += [f"prefetch {_millions(row['prefetch_bucket'])}"] if row["prefetch_bucket"] != 50_000_000 else []
    parts += [f"live {_millions(row['max_live_parameters'])}"] if row["max_live_parameters"] != 10**9 else []
    parts += [f"{row['variant']} of {row['release']}"] if row["variant"] != "unordered" else []
    return ", ".join(parts)


def draw_windows(table: pd.DataFrame) -> Canvas:
    cases, networks = list(dict.fromkeys(table["case"])), list(dict.fromkeys(table["network"]))
    canvas, panel = plt.subplots(
        figsize=(max(6.5, 3.0 + 1.5 * len(networks)), 1.1 + 0.3 * len(cases)), layout="constrained"
    )
    colours = {"strikes": "#f3c0a8", "may strike": "#f7dcc0", "close": "#fbe3ae", "hidden": "#bfe3d0"}
    for _, row in table.iterrows():
        x, y = networks.index(row["network"]), cases.index(row["case"])
        panel.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, color=colours[row["verdict"]], linewidth=0))
        sign = f"✕ {_overtaken(row)} of {row['parameters_gathered']}" if row["overtaken_high"] else "–"
        panel.text(
            x,
            y,
            f"{_milliseconds(row['margin_min_us'])}  {sign}",
            ha="center",
            va="center",
            fontsize=6.5,
            color="#111111",  # not the report's ink, which may be light
        )
    panel.set_xlim(-0.5, len(networks) - 0.5)
    panel.set_ylim(len(cases) - 0.5, -0.5)
    panel.set_xticks(range(len(networks)), [short(n) for n in networks])
    panel.set_yticks(range(len(cases)), cases, fontsize=7)
    panel.set_title("least margin from copy to gather; ✕: gathers that overtake their copy, over the range")
    panel.grid(False)
    return canvas


def _overtaken(row: Any) -> str:
    """How many gathers overtake their copy, over the range."""
    low, high = int(row["overtaken_low"]), int(row["overtaken_high"])
    return str(low) if low == high else f"{low} to {high}"


def _millions(count: float) -> str:
    return f"{count / 1e6:g} M" if count >= 1e6 else f"{count / 1e3:g} k" if count else "0"


def _milliseconds(microseconds: float) -> str:
    size, sign = abs(microseconds), "−" if microseconds < 0 else ""
    if size < 1e3:
        return f"{sign}{size:.0f} µs"
    return f"{sign}{size / 1e3:.3g} ms" if size < 1e6 else f"{sign}{size / 1e6:.3g} s"


def shown_margins(simulated: Simulated) -> pd.DataFrame:
    """The margins of one setting for each model and code: the first network on which a parameter is overtaken.

    Adds `case`. That is all that a figure shows of the margins, so reference results keep no more.
    """
    keys = ["run_id", "network"]
    table = windows(simulated)
    table = table[table["overtaken"] > 0].drop_duplicates(["model", "release", "variant"]).head(6)
    if not len(table):
        return simulated.margins.head(0).assign(case=[])
    names = [f"{_window_case(row)}; {short(row['network'])}" for row in records(table)]
    parts = table[keys].assign(case=names)
    return parts.merge(simulated.margins, on=keys)


def window_parameters_figure(simulated: Simulated) -> Figure:
    """The margin of every parameter in the order of the model, for settings in which some are overtaken."""
    keep = ["case", "parameter", "margin_us", "network", "run_id", "evidence"]
    return figure(
        "simulated_window_parameters",
        "Margin of each parameter from copy to gather",
        shown_margins(simulated)[keep],
        draw_window_parameters,
    )


def draw_window_parameters(table: pd.DataFrame) -> Canvas:
    cases = list(dict.fromkeys(table["case"]))
    canvas, panels = grid(max(1, len(cases)), height=2.4, share=True)
    if not cases:
        panels[0].text(
            0.5, 0.5, "no parameter is gathered before its copy", ha="center", transform=panels[0].transAxes
        )
        return canvas
    for panel, name in zip(panels, cases, strict=True):
        margins = table[table["case"] == name]["margin_us"].to_numpy() / 1e3
        late = np.flatnonzero(margins < 0)
        edges = np.repeat(np.arange(late[0], late[-1] + 2), 2)[1:-1]
        early = np.repeat(margins[late[0] : late[-1] + 1].clip(max=0), 2)
        panel.stairs(margins, color=PALETTE[0], linewidth=1.0, baseline=None)
        panel.fill_between(edges, early, color=PALETTE[1], linewidth=0.4)
        panel.axhline(0.0, color=MUTED, linewidth=0.8)
        panel.set_yscale("symlog", linthresh=1.0)
        panel.set_yticks(
            [-1e4, -1e2, -1, 0, 1, 1e2, 1e4], ["−10 s", "−0.1 s", "−1 ms", "0", "1 ms", "0.1 s", "10 s"]
        )
        panel.minorticks_off()
        panel.set_title(name.replace("; ", "\n"), fontsize=7.5)
        panel.set_xlabel(f"{len(margins)} parameters, in the order of the model")
    panels[0].set_ylabel("end of copy → start of gather")
    return canvas
