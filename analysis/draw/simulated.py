"""The figures of simulated time, from what `hpz simulate` computed; here those of speed and of what an order costs."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from analysis.draw.figure import Figure
from analysis.draw.simulated_panels import figure, grid, legend_below, short
from analysis.draw.simulated_scaling import efficiency_figure, limits_figure, scaling_figure
from analysis.draw.simulated_windows import window_figure, window_parameters_figure
from analysis.draw.style import INK, MUTED, line_of
from analysis.judge.clock_tables import case
from analysis.judge.trust import records
from harness.simulate.records import Simulated
from harness.simulate.tables import sync_cost

ORDERINGS = ("unordered", "event", "fixed", "device-sync")


def simulated_figures(simulated: Simulated) -> list[Figure]:
    """Every figure for which the study asked. Raises KeyError where a table lacks a column."""
    makers = {
        "sync_cost": (throughput_figure, order_cost_figure),
        "windows": (window_figure, window_parameters_figure),
        "scaling": (scaling_figure, efficiency_figure, limits_figure),
    }
    present = set(simulated.cells["table"])
    return [make(simulated) for table, each in makers.items() if table in present for make in each]


def throughput_figure(simulated: Simulated) -> Figure:
    """Speed over ZeRO-3 of each ordering, by network, with its range; the bound by bytes as a line."""
    table = sync_cost(simulated)
    table = table[table["variant"].isin(ORDERINGS)].assign(
        case=[case(row) for row in records(table[table["variant"].isin(ORDERINGS)])]
    )
    keep = [
        "case",
        "network",
        "variant",
        "speedup_over_zero3",
        "speedup_over_zero3_low",
        "speedup_over_zero3_high",
        "bytes_bound",
        "step_seconds",
        "run_id",
        "evidence",
    ]
    return figure("simulated_throughput", "hpZ's speed over ZeRO-3 by network", table[keep], draw_throughput)


def draw_throughput(table: pd.DataFrame) -> Canvas:
    cases, networks = list(dict.fromkeys(table["case"])), list(dict.fromkeys(table["network"]))
    canvas, panels = grid(len(cases), share=True)
    for panel, name in zip(panels, cases, strict=True):
        mine = table[table["case"] == name]
        for variant, part in mine.groupby("variant", sort=False):
            line, places = line_of(str(variant)), [networks.index(n) for n in part["network"]]
            low, high = (part[f"speedup_over_zero3_{end}"] for end in ("low", "high"))
            panel.vlines(places, low, high, color=line.colour, linewidth=1.0, alpha=0.5, zorder=line.order)
            panel.plot(
                places,
                part["speedup_over_zero3"],
                color=line.colour,
                linestyle=line.dash,
                linewidth=line.width,
                marker=line.marker or "o",
                markersize=3,
                label=str(variant),
                zorder=line.order,
            )
        panel.axhline(1.0, color=MUTED, linewidth=0.8)
        panel.axhline(float(mine["bytes_bound"].max()), color=INK, linewidth=0.8, linestyle=":")
        panel.set_title(name, fontsize=7.5)
        panel.set_xticks(range(len(networks)), [short(n) for n in networks], rotation=35, ha="right")
    panels[0].set_ylabel("speed / ZeRO-3\n(dotted: bytes allow)")
    legend_below(canvas, panels[0])
    return canvas


def order_cost_figure(simulated: Simulated) -> Figure:
    """Step time of each ordering over the unordered one, in per cent, by network, with its range."""
    table = sync_cost(simulated)
    table = table[table["variant"].isin(ORDERINGS[1:])]
    table = table.assign(
        case=[case(row) for row in records(table)],
        cost_percent=100 * table["cost_of_order"],
        **{f"cost_percent_{end}": 100 * table[f"cost_of_order_{end}"] for end in ("low", "high")},
    )
    keep = [
        "case",
        "network",
        "variant",
        "cost_percent",
        "cost_percent_low",
        "cost_percent_high",
        "blocked_at_copy_seconds",
        "lost_overlap_seconds",
    ]
    return figure(
        "simulated_order_cost",
        "What each ordering costs",
        table[[*keep, "run_id", "evidence"]],
        draw_order_cost,
    )


def draw_order_cost(table: pd.DataFrame) -> Canvas:
    cases, networks = list(dict.fromkeys(table["case"])), list(dict.fromkeys(table["network"]))
    variants = [v for v in ORDERINGS if v in set(table["variant"])]
    canvas, panels = grid(len(cases), share=True)
    for panel, name in zip(panels, cases, strict=True):
        mine, width = table[table["case"] == name], 0.84 / len(variants)
        for number, variant in enumerate(variants):
            part = mine[mine["variant"] == variant].set_index("network").reindex(networks)
            places = np.arange(len(networks)) + (number - (len(variants) - 1) / 2) * width
            panel.bar(places, part["cost_percent"], width * 0.9, color=line_of(variant).colour, label=variant)
            ends = part[["cost_percent_low", "cost_percent_high"]].to_numpy()
            panel.vlines(places, ends[:, 0], ends[:, 1], color=MUTED, linewidth=0.8)
            for x, value, (_, high) in zip(places, part["cost_percent"], ends, strict=True):
                _number(panel, float(x), float(value), float(high))
        panel.axhline(0.0, color=MUTED, linewidth=0.8)
        panel.set_title(name, fontsize=7.5)
        panel.grid(False, axis="x")
        panel.set_xticks(range(len(networks)), [short(n) for n in networks], rotation=35, ha="right")
    panels[0].set_ylim(
        min(0.0, table["cost_percent_low"].min()) - 0.5, 1.25 * max(1.0, table["cost_percent_high"].max())
    )
    panels[0].set_ylabel("step time over unordered, %")
    legend_below(canvas, panels[0])
    return canvas


def _number(panel: Axes, x: float, value: float, high: float) -> None:
    """A bar's value above its range, so that what is too small to see can be read."""
    if np.isfinite(value):
        text = f"{value + 0.0:.1f}".replace("-0.0", "0.0")
        panel.text(x, max(high, 0.0), f" {text}", rotation=90, ha="center", va="bottom", fontsize=5.5)
