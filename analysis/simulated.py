"""Figures and tables of simulated time; every one is drawn from its table and labelled `simulated-time`.

The input is what `hpz simulate` computed (`harness.simulate.tables`).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.patches import Rectangle

from analysis.figures import Figure
from analysis.style import GRID, INK, MUTED, PALETTE, line_of
from harness.simulate.tables import EVIDENCE, Simulated, scaling, sync_cost, windows

ORDERINGS = ("unordered", "event", "fixed", "device-sync")
LIMITS = ("compute", "nvlink", "nic", "latency", "host", "memory")
LIMIT_COLOURS = dict(
    zip(LIMITS, (PALETTE[2], PALETTE[5], PALETTE[1], PALETTE[3], PALETTE[0], PALETTE[4]), strict=True)
)
LIMIT_HATCHES = dict(zip(LIMITS, ("", "//", "", "..", "\\\\", "xx"), strict=True))


def simulated_figures(simulated: Simulated) -> list[Figure]:
    """Every figure for which the study asked. Raises KeyError where a table lacks a column."""
    makers = {
        "sync_cost": (throughput_figure, order_cost_figure),
        "windows": (window_figure, window_parameters_figure),
        "scaling": (scaling_figure, limits_figure),
    }
    present = set(simulated.cells["table"])
    return [make(simulated) for table, each in makers.items() if table in present for make in each]


def _figure(name: str, title: str, table: pd.DataFrame, draw: Any) -> Figure:
    run_ids = tuple(dict.fromkeys(table["run_id"])) if "run_id" in table else ()
    return Figure(name, f"{title} (simulated time)", table, run_ids, (EVIDENCE,), draw)


def _case(row: Any) -> str:
    """What a panel or bar shows, in few words."""
    return f"{row['model']}, batch {row['micro_batch']} × {row['sequence_length']}"


def _grid(count: int, height: float = 2.2) -> tuple[Canvas, list[Axes]]:
    columns = min(3, max(1, count))
    rows = -(-count // columns)
    canvas, axes = plt.subplots(
        rows,
        columns,
        figsize=(max(5.5, 3.3 * columns), height * rows + 0.5),
        squeeze=False,
        layout="constrained",
    )
    for empty in axes.flat[count:]:
        empty.set_axis_off()
    return canvas, list(axes.flat[:count])


# ---- throughput and the cost of order


def throughput_figure(simulated: Simulated) -> Figure:
    """Speed over ZeRO-3 of each ordering, by network; the bound by bytes as a line."""
    table = sync_cost(simulated)
    table = table[table["variant"].isin(ORDERINGS)].assign(
        case=[_case(row) for _, row in table[table["variant"].isin(ORDERINGS)].iterrows()]
    )
    keep = [
        "case",
        "network",
        "variant",
        "speedup_over_zero3",
        "bytes_bound",
        "step_seconds",
        "run_id",
        "evidence",
    ]
    return _figure("simulated_throughput", "hpZ's speed over ZeRO-3 by network", table[keep], draw_throughput)


def draw_throughput(table: pd.DataFrame) -> Canvas:
    cases, networks = list(dict.fromkeys(table["case"])), list(dict.fromkeys(table["network"]))
    canvas, panels = _grid(len(cases))
    for panel, case in zip(panels, cases, strict=True):
        mine = table[table["case"] == case]
        for variant, part in mine.groupby("variant", sort=False):
            line, places = line_of(str(variant)), [networks.index(n) for n in part["network"]]
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
        panel.set_title(case)
        panel.set_xticks(range(len(networks)), [_short(n) for n in networks], rotation=35, ha="right")
        panel.set_ylim(bottom=0.9)
    panels[0].set_ylabel("speed / ZeRO-3\n(dotted: bytes allow)")
    panels[0].legend(fontsize=7)
    return canvas


def _short(network: str) -> str:
    kind, _, rate = network.partition("-")
    return f"{'Eth' if kind == 'ethernet' else 'IB'} {rate.removesuffix('gbps')}"


def order_cost_figure(simulated: Simulated) -> Figure:
    """Step time of each ordering over the unordered one, in per cent, by network."""
    table = sync_cost(simulated)
    table = table[table["variant"].isin(ORDERINGS[1:])]
    table = table.assign(
        case=[_case(row) for _, row in table.iterrows()], cost_percent=100 * table["cost_of_order"]
    )
    keep = ["case", "network", "variant", "cost_percent", "blocked_at_copy_seconds", "lost_overlap_seconds"]
    return _figure(
        "simulated_order_cost",
        "What each ordering costs",
        table[[*keep, "run_id", "evidence"]],
        draw_order_cost,
    )


def draw_order_cost(table: pd.DataFrame) -> Canvas:
    cases, networks = list(dict.fromkeys(table["case"])), list(dict.fromkeys(table["network"]))
    variants = [v for v in ORDERINGS if v in set(table["variant"])]
    canvas, panels = _grid(len(cases))
    for panel, case in zip(panels, cases, strict=True):
        mine, width = table[table["case"] == case], 0.8 / len(variants)
        for number, variant in enumerate(variants):
            part = mine[mine["variant"] == variant].set_index("network").reindex(networks)
            places = np.arange(len(networks)) + (number - (len(variants) - 1) / 2) * width
            panel.bar(places, part["cost_percent"], width * 0.9, color=line_of(variant).colour, label=variant)
        panel.axhline(0.0, color=MUTED, linewidth=0.8)
        panel.set_title(case)
        panel.set_xticks(range(len(networks)), [_short(n) for n in networks], rotation=35, ha="right")
    panels[0].set_ylabel("step time over unordered, %")
    panels[0].legend(fontsize=7)
    return canvas


# ---- the window


def window_figure(simulated: Simulated) -> Figure:
    """The least margin of each setting and network: where the gather overtakes the copy, and by how much."""
    table = windows(simulated)
    table = table[table["parameters_gathered"] > 0]
    table = table.assign(case=[_window_case(row) for _, row in table.iterrows()])
    keep = [
        "case",
        "network",
        "margin_min_us",
        "margin_median_us",
        "overtaken",
        "parameters_gathered",
        "verdict",
    ]
    return _figure(
        "simulated_windows", "Where the race strikes", table[[*keep, "run_id", "evidence"]], draw_windows
    )


def _window_case(row: Any) -> str:
    parts = [str(row["model"]), f"{row['gpus']} GPUs", f"batch {row['micro_batch']}"]
    parts += [f"{row['gradient_accumulation']} micro-batches"] if row["gradient_accumulation"] > 1 else []
    parts += [] if row["activation_checkpointing"] else ["no recompute"]
    parts += [f"DeepSpeed {row['release']} {row['variant']}"] if row["variant"] != "unordered" else []
    parts += [f"prefetch {row['prefetch_bucket']:.0e}"] if row["prefetch_bucket"] != 50_000_000 else []
    return ", ".join(parts)


def draw_windows(table: pd.DataFrame) -> Canvas:
    cases, networks = list(dict.fromkeys(table["case"])), list(dict.fromkeys(table["network"]))
    canvas, panel = plt.subplots(
        figsize=(max(6.5, 3.0 + 1.25 * len(networks)), 1.1 + 0.3 * len(cases)), layout="constrained"
    )
    colours = {"strikes": "#f3c0a8", "close": "#fbe3ae", "hidden": "#bfe3d0"}
    for _, row in table.iterrows():
        x, y = networks.index(row["network"]), cases.index(row["case"])
        panel.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, color=colours[row["verdict"]], linewidth=0))
        sign = f"✕ {row['overtaken']} of {row['parameters_gathered']}" if row["overtaken"] else "–"
        panel.text(
            x,
            y,
            f"{_milliseconds(row['margin_min_us'])}  {sign}",
            ha="center",
            va="center",
            fontsize=6.5,
            color="#1f2328",
        )
    panel.set_xlim(-0.5, len(networks) - 0.5)
    panel.set_ylim(len(cases) - 0.5, -0.5)
    panel.set_xticks(range(len(networks)), [_short(n) for n in networks])
    panel.set_yticks(range(len(cases)), cases, fontsize=7)
    panel.set_title("least margin from copy to gather; ✕: parameters gathered before their copy")
    panel.grid(False)
    return canvas


def _milliseconds(microseconds: float) -> str:
    size = abs(microseconds)
    if size < 1e3:
        return f"{microseconds:.0f} µs"
    return f"{microseconds / 1e3:.3g} ms" if size < 1e6 else f"{microseconds / 1e6:.3g} s"


def window_parameters_figure(simulated: Simulated) -> Figure:
    """The margin of every parameter in the order of the model, for the settings in which some are overtaken."""
    table = simulated.margins.copy()
    keys = ["run_id", "network"]
    struck = table[table["margin_us"] < 0].groupby(keys).size().sort_values(ascending=False).head(6).index
    chosen = table.set_index(keys).loc[struck].reset_index() if len(struck) else table.head(0)
    chosen = chosen.assign(
        case=[
            f"{r['model']}, batch {r['micro_batch']}, {r['nodes']} nodes, {_short(r['network'])}"
            for _, r in chosen.iterrows()
        ]
    )
    keep = ["case", "parameter", "margin_us", "network", "run_id", "evidence"]
    return _figure(
        "simulated_window_parameters", "Margin of each parameter", chosen[keep], draw_window_parameters
    )


def draw_window_parameters(table: pd.DataFrame) -> Canvas:
    cases = list(dict.fromkeys(table["case"]))
    canvas, panels = _grid(max(1, len(cases)))
    if not cases:
        panels[0].text(
            0.5, 0.5, "no parameter is gathered before its copy", ha="center", transform=panels[0].transAxes
        )
    for panel, case in zip(panels, cases, strict=False):
        margins = table[table["case"] == case]["margin_us"].to_numpy() / 1e3
        colours = np.where(margins < 0, PALETTE[1], PALETTE[0])
        panel.scatter(np.arange(len(margins)), margins, s=5, c=colours.tolist())
        panel.axhline(0.0, color=MUTED, linewidth=0.8)
        panel.set_yscale("symlog", linthresh=0.1)
        panel.set_title(case, fontsize=7.5)
        panel.set_xlabel("parameter, in the order of the model")
    panels[0].set_ylabel("copy → gather, ms")
    return canvas


# ---- scaling


def scaling_figure(simulated: Simulated) -> Figure:
    """Efficiency over the number of GPUs, by variant and network."""
    table = scaling(simulated)
    table = table.assign(case=[f"{r['model']}, {_short(r['network'])}" for _, r in table.iterrows()])
    keep = ["case", "variant", "gpus", "step_seconds", "tokens_per_second", "efficiency", "limited_by"]
    return _figure("simulated_scaling", "Scaling", table[[*keep, "run_id", "evidence"]], draw_scaling)


def draw_scaling(table: pd.DataFrame) -> Canvas:
    cases = list(dict.fromkeys(table["case"]))
    canvas, panels = _grid(len(cases))
    for panel, case in zip(panels, cases, strict=True):
        for variant, part in table[table["case"] == case].groupby("variant", sort=False):
            line, part = line_of(str(variant)), part.sort_values("gpus")
            panel.plot(
                part["gpus"],
                part["step_seconds"],
                color=line.colour,
                linestyle=line.dash,
                linewidth=min(line.width, 2.0),
                marker=line.marker or "o",
                markersize=3,
                label=str(variant),
            )
        panel.set_xscale("log", base=2)
        gpus = sorted(set(table[table["case"] == case]["gpus"]))
        panel.set_xticks(gpus, [str(n) for n in gpus], fontsize=7)
        panel.set_ylim(bottom=0)
        panel.set_title(case)
        panel.set_xlabel("GPUs")
    panels[0].set_ylabel("seconds a step")
    panels[0].legend(fontsize=7)
    return canvas


def limits_figure(simulated: Simulated) -> Figure:
    """What the critical path of a step consists of, as stacked bars over the number of GPUs."""
    table = scaling(simulated)
    table = table[table["variant"].isin(("zero3", "fixed"))]
    table = table.assign(
        case=[f"{r['model']}, {r['variant']}, {_short(r['network'])}" for _, r in table.iterrows()]
    )
    keep = ["case", "gpus", "step_seconds", *(f"limit_{name}" for name in LIMITS), "run_id", "evidence"]
    return _figure("simulated_limits", "What limits a step", table[keep], draw_limits)


def draw_limits(table: pd.DataFrame) -> Canvas:
    cases = list(dict.fromkeys(table["case"]))
    canvas, panels = _grid(len(cases))
    for panel, case in zip(panels, cases, strict=True):
        mine = table[table["case"] == case].sort_values("gpus")
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
        panel.set_title(case, fontsize=7.5)
        panel.grid(False)
    panels[0].set_ylabel("share of the step, %")
    canvas.legend(
        *panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(LIMITS), fontsize=7
    )
    return canvas
