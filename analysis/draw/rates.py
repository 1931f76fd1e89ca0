"""The figure of the race's rate against the stall."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.figure import Figure as Canvas

from analysis.draw.figure import Figure
from analysis.draw.style import line_of

Record = dict[str, Any]


def gpu_figures(summary: Mapping[str, Any]) -> list[Callable[[], Figure]]:
    """The rate against the stall, where the study has stalled runs."""
    rates = (summary.get("gpu") or {}).get("rates", [])
    return [lambda: rate_figure(rates)] if any(rate["stall_us"] for rate in rates) else []


def rate_figure(rates: list[Record]) -> Figure:
    """Share of struck steps against the stall, one line a variant, of the model that was stalled most."""
    stalled = [rate["model"] for rate in rates if rate["stall_us"]]
    model = max(dict.fromkeys(stalled), key=stalled.count)
    rows = [
        {
            "variant": rate["variant"],
            "gradient_accumulation": rate["gradient_accumulation"],
            "stall_us": rate["stall_us"],
            **rate["steps"],
            "runs_struck": rate["runs"]["hits"],
            "runs": rate["runs"]["trials"],
            "evidence": rate["evidence"],
            "run_ids": " ".join(rate["run_ids"]),
        }
        for rate in rates
        if rate["model"] == model and rate["throughput_timer"]
    ]
    run_ids = tuple(run_id for rate in rates if rate["model"] == model for run_id in rate["run_ids"])
    title = f"{model}: strikes per step against the stall, with exact intervals"
    evidence = tuple(sorted({row["evidence"] for row in rows}))
    return Figure("race_rate", title, pd.DataFrame(rows), run_ids, evidence, draw_rates)


def draw_rates(table: pd.DataFrame) -> Canvas:
    """One line a variant; the bar is the interval. Stall 0 is the natural rate."""
    canvas, axes = plt.subplots(figsize=(6.4, 2.9), layout="constrained")
    variants = list(dict.fromkeys(table["variant"]))
    for place, variant in enumerate(variants):
        rows, line = table[table["variant"] == variant].sort_values("stall_us"), line_of(variant)
        x = rows["stall_us"] * (1 + 0.03 * (place - len(variants) / 2))  # beside each other, not on top
        axes.vlines(x, rows["low"], rows["high"], color=line.colour, linewidth=1.0)
        axes.plot(
            x,
            rows["share"],
            color=line.colour,
            linestyle=line.dash,
            linewidth=1.4,
            marker=line.marker or "o",
            markersize=4.5,
            label=variant,
        )
    axes.set_xscale("symlog", linthresh=max(1.0, table.loc[table["stall_us"] > 0, "stall_us"].min()))
    ticks = sorted(set(table["stall_us"]))
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.set_xlabel("stall before each copy on the compute stream (µs; 0: natural)")
    axes.set_ylabel("strikes per step")
    axes.set_ylim(-0.02, 1.02)
    canvas.legend(loc="outside lower center", ncols=max(1, len(variants)), handlelength=3)
    return canvas
