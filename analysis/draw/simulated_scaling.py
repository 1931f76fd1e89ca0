"""Figures of scaling in simulated time: step time, efficiency and what limits a step, over the number of GPUs."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure as Canvas

from analysis.draw.figure import Figure
from analysis.draw.simulated_panels import figure, grid, legend_below, short
from analysis.draw.style import GRID, PALETTE, line_of
from harness.simulate.records import Simulated
from harness.simulate.tables import scaling

LIMITS = ("compute", "nvlink", "nic", "latency", "host", "memory")

LIMIT_COLOURS = dict(
    zip(LIMITS, (PALETTE[2], PALETTE[5], PALETTE[1], PALETTE[3], PALETTE[0], PALETTE[4]), strict=True)
)

LIMIT_HATCHES = dict(zip(LIMITS, ("", "//", "", "..", "\\\\", "xx"), strict=True))

SCALING_COLUMNS = (
    *("case", "variant", "gpus", "step_seconds", "tokens_per_second", "efficiency", "limited_by"),
    *("node_nic_bytes", "gpu_nvlink_bytes", "run_id", "evidence"),
)


def scaling_figure(simulated: Simulated) -> Figure:
    """Step time over the number of GPUs, by variant and network."""
    title = "Step time over the number of GPUs, the same batch on each"
    return figure("simulated_scaling", title, _scaling_lines(simulated), draw_scaling)


def efficiency_figure(simulated: Simulated) -> Figure:
    """Tokens a second and GPU against the smallest world of the same line, by variant and network."""
    title = "Efficiency over the number of GPUs, against the smallest world"
    return figure("simulated_efficiency", title, _scaling_lines(simulated), draw_efficiency)


def _scaling_lines(simulated: Simulated) -> pd.DataFrame:
    table = scaling(simulated)
    table = table.assign(case=[f"{r['model']}, {short(r['network'])}" for _, r in table.iterrows()])
    return table[list(SCALING_COLUMNS)]


def draw_scaling(table: pd.DataFrame) -> Canvas:
    return _draw_over_gpus(table, table["step_seconds"], "seconds a step")


def draw_efficiency(table: pd.DataFrame) -> Canvas:
    return _draw_over_gpus(table, 100 * table["efficiency"], "efficiency, %")


def _draw_over_gpus(table: pd.DataFrame, values: pd.Series, label: str) -> Canvas:
    table = table.assign(value=values)
    cases = list(dict.fromkeys(table["case"]))
    canvas, panels = grid(len(cases))
    for panel, name in zip(panels, cases, strict=True):
        for variant, part in table[table["case"] == name].groupby("variant", sort=False):
            line, part = line_of(str(variant)), part.sort_values("gpus")
            panel.plot(
                part["gpus"],
                part["value"],
                color=line.colour,
                linestyle=line.dash,
                linewidth=min(line.width, 2.0),
                marker=line.marker or "o",
                markersize=3,
                label=str(variant),
            )
        panel.set_xscale("log", base=2)
        gpus = sorted(set(table[table["case"] == name]["gpus"]))
        panel.set_xticks(gpus, [str(n) for n in gpus], fontsize=7)
        panel.minorticks_off()
        panel.set_ylim(0, 1.06 * table[table["case"] == name]["value"].max())
        panel.set_title(name)
        panel.set_xlabel("GPUs")
    panels[0].set_ylabel(label)
    legend_below(canvas, panels[0])
    return canvas


def limits_figure(simulated: Simulated) -> Figure:
    """What the critical path of a step consists of, as stacked bars over the number of GPUs."""
    table = scaling(simulated)
    table = table[table["variant"].isin(("zero3", "fixed"))]
    table = table.assign(
        case=[f"{r['model']}, {r['variant']}, {short(r['network'])}" for _, r in table.iterrows()]
    )
    keep = ["case", "gpus", "step_seconds", *(f"limit_{name}" for name in LIMITS), "run_id", "evidence"]
    return figure("simulated_limits", "What limits a step", table[keep], draw_limits)


def draw_limits(table: pd.DataFrame) -> Canvas:
    cases = list(dict.fromkeys(table["case"]))
    canvas, panels = grid(len(cases))
    for panel, each in zip(panels, cases, strict=True):
        mine = table[table["case"] == each].sort_values("gpus")
        bottom, places = np.zeros(len(mine)), np.arange(len(mine))
        for name in LIMITS:
            share = 100 * (mine[f"limit_{name}"] / mine["step_seconds"]).to_numpy()
            panel.bar(
                places,
                share,
                0.8,
                bottom=bottom,
                color=LIMIT_COLOURS[name],
                hatch=LIMIT_HATCHES[name],
                edgecolor=GRID,
                linewidth=0.3,
                label=name,
            )
            bottom += share
        panel.set_xticks(places, [str(n) for n in mine["gpus"]], fontsize=7)
        panel.set_title(each, fontsize=7.5)
        panel.set_xlabel("GPUs")
        panel.grid(False)
    panels[0].set_ylabel("share of the step, %")
    legend_below(canvas, panels[0])
    return canvas
