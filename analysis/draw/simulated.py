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

from analysis.draw.figures import Figure
from analysis.draw.style import GRID, INK, MUTED, PALETTE, line_of
from analysis.judge.clock import case, records
from harness.simulate.records import EVIDENCE, Simulated
from harness.simulate.tables import scaling, sync_cost, windows
from harness.simulate.validate import Validation

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
        "scaling": (scaling_figure, efficiency_figure, limits_figure),
    }
    present = set(simulated.cells["table"])
    return [make(simulated) for table, each in makers.items() if table in present for make in each]


def _figure(name: str, title: str, table: pd.DataFrame, draw: Any) -> Figure:
    run_ids = tuple(dict.fromkeys(table["run_id"])) if "run_id" in table else ()
    return Figure(name, f"{title} (simulated time)", table, run_ids, (EVIDENCE,), draw)


def _grid(count: int, height: float = 2.2, share: bool = False) -> tuple[Canvas, list[Axes]]:
    """Panels in rows of three; `share` gives all of them the same upright axis."""
    columns = min(3, max(1, count))
    rows = -(-count // columns)
    canvas, axes = plt.subplots(
        rows,
        columns,
        figsize=(max(5.5, 3.3 * columns), height * rows + 0.5),
        squeeze=False,
        sharey=share,
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
        case=[case(row) for row in records(table[table["variant"].isin(ORDERINGS)])]
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
    canvas, panels = _grid(len(cases), share=True)
    for panel, name in zip(panels, cases, strict=True):
        mine = table[table["case"] == name]
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
        panel.set_title(name, fontsize=7.5)
        panel.set_xticks(range(len(networks)), [_short(n) for n in networks], rotation=35, ha="right")
    panels[0].set_ylabel("speed / ZeRO-3\n(dotted: bytes allow)")
    _legend_below(canvas, panels[0])
    return canvas


def _legend_below(canvas: Canvas, panel: Axes) -> None:
    handles, names = panel.get_legend_handles_labels()
    canvas.legend(handles, names, loc="outside lower center", ncols=len(names), fontsize=7)


def _short(network: str) -> str:
    kind, _, rate = network.partition("-")
    return f"{'Eth' if kind == 'ethernet' else 'IB'} {rate.removesuffix('gbps')}"


def order_cost_figure(simulated: Simulated) -> Figure:
    """Step time of each ordering over the unordered one, in per cent, by network."""
    table = sync_cost(simulated)
    table = table[table["variant"].isin(ORDERINGS[1:])]
    table = table.assign(
        case=[case(row) for row in records(table)], cost_percent=100 * table["cost_of_order"]
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
    canvas, panels = _grid(len(cases), share=True)
    for panel, name in zip(panels, cases, strict=True):
        mine, width = table[table["case"] == name], 0.84 / len(variants)
        for number, variant in enumerate(variants):
            part = mine[mine["variant"] == variant].set_index("network").reindex(networks)
            places = np.arange(len(networks)) + (number - (len(variants) - 1) / 2) * width
            panel.bar(places, part["cost_percent"], width * 0.9, color=line_of(variant).colour, label=variant)
            for x, value in zip(places, part["cost_percent"], strict=True):
                _number(panel, float(x), float(value))
        panel.axhline(0.0, color=MUTED, linewidth=0.8)
        panel.set_title(name, fontsize=7.5)
        panel.grid(False, axis="x")
        panel.set_xticks(range(len(networks)), [_short(n) for n in networks], rotation=35, ha="right")
    panels[0].set_ylim(
        min(0.0, table["cost_percent"].min()) - 0.5, 1.25 * max(1.0, table["cost_percent"].max())
    )
    panels[0].set_ylabel("step time over unordered, %")
    _legend_below(canvas, panels[0])
    return canvas


def _number(panel: Axes, x: float, value: float) -> None:
    """A bar's value above it, so that what is too small to see can be read."""
    if np.isfinite(value):
        text = f"{value + 0.0:.1f}".replace("-0.0", "0.0")
        panel.text(x, max(value, 0.0), f" {text}", rotation=90, ha="center", va="bottom", fontsize=5.5)


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


def _millions(count: float) -> str:
    return f"{count / 1e6:g} M" if count >= 1e6 else f"{count / 1e3:g} k" if count else "0"


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
            color="#111111",  # not the report's ink, which may be light
        )
    panel.set_xlim(-0.5, len(networks) - 0.5)
    panel.set_ylim(len(cases) - 0.5, -0.5)
    panel.set_xticks(range(len(networks)), [_short(n) for n in networks])
    panel.set_yticks(range(len(cases)), cases, fontsize=7)
    panel.set_title("least margin from copy to gather; ✕: parameters gathered before their copy has ended")
    panel.grid(False)
    return canvas


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
    table = table[table["verdict"] == "strikes"].drop_duplicates(["model", "release", "variant"]).head(6)
    if not len(table):
        return simulated.margins.head(0).assign(case=[])
    names = [f"{_window_case(row)}; {_short(row['network'])}" for row in records(table)]
    parts = table[keys].assign(case=names)
    return parts.merge(simulated.margins, on=keys)


def window_parameters_figure(simulated: Simulated) -> Figure:
    """The margin of every parameter in the order of the model, for settings in which some are overtaken."""
    keep = ["case", "parameter", "margin_us", "network", "run_id", "evidence"]
    return _figure(
        "simulated_window_parameters",
        "Margin of each parameter from copy to gather",
        shown_margins(simulated)[keep],
        draw_window_parameters,
    )


def draw_window_parameters(table: pd.DataFrame) -> Canvas:
    cases = list(dict.fromkeys(table["case"]))
    canvas, panels = _grid(max(1, len(cases)), height=2.4, share=True)
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


# ---- scaling


SCALING_COLUMNS = (
    *("case", "variant", "gpus", "step_seconds", "tokens_per_second", "efficiency", "limited_by"),
    *("node_nic_bytes", "gpu_nvlink_bytes", "run_id", "evidence"),
)


def scaling_figure(simulated: Simulated) -> Figure:
    """Step time over the number of GPUs, by variant and network."""
    title = "Step time over the number of GPUs, the same batch on each"
    return _figure("simulated_scaling", title, _scaling_lines(simulated), draw_scaling)


def efficiency_figure(simulated: Simulated) -> Figure:
    """Tokens a second and GPU against the smallest world of the same line, by variant and network."""
    title = "Efficiency over the number of GPUs, against the smallest world"
    return _figure("simulated_efficiency", title, _scaling_lines(simulated), draw_efficiency)


def _scaling_lines(simulated: Simulated) -> pd.DataFrame:
    table = scaling(simulated)
    table = table.assign(case=[f"{r['model']}, {_short(r['network'])}" for _, r in table.iterrows()])
    return table[list(SCALING_COLUMNS)]


def draw_scaling(table: pd.DataFrame) -> Canvas:
    return _draw_over_gpus(table, table["step_seconds"], "seconds a step")


def draw_efficiency(table: pd.DataFrame) -> Canvas:
    return _draw_over_gpus(table, 100 * table["efficiency"], "efficiency, %")


def _draw_over_gpus(table: pd.DataFrame, values: pd.Series, label: str) -> Canvas:
    table = table.assign(value=values)
    cases = list(dict.fromkeys(table["case"]))
    canvas, panels = _grid(len(cases))
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
    _legend_below(canvas, panels[0])
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
    _legend_below(canvas, panels[0])
    return canvas


# ---- validation


def validation_figure(validation: Validation) -> Figure | None:
    """Simulated against measured: step times over real slow links, and speed-ups of all that was measured."""
    steps, found = validation.measured, validation.published
    rows = [
        {
            "what": f"{row['variant']}, {row['link']}",
            "link": row["link"],
            "quantity": quantity,
            "measured": row[f"measured_{name}"],
            "simulated": row[f"simulated_{name}"],
            "measured_evidence": row["measured_evidence"],
            "run_id": row["run_id"],
        }
        for row in records(steps)
        for quantity, name in (("step seconds", "seconds"), ("speed-up over ZeRO-3", "speedup"))
        if name == "seconds" or row["variant"] != "zero3"
    ]
    rows += [
        {
            "what": f"{row['id']}, {row['shape']}, {row['network']}",
            "link": row["id"],
            "quantity": "speed-up over ZeRO-3",
            "measured": row["measured_speedup"],
            "simulated": row["simulated_speedup"],
            "measured_evidence": "published",
            "run_id": row["id"],
        }
        for row in records(found)
        if row["comparable"]
    ]
    if not rows:
        return None
    table = pd.DataFrame(rows).assign(evidence=EVIDENCE)
    run_ids = tuple(dict.fromkeys(table.loc[table["measured_evidence"] != "published", "run_id"]))
    levels = tuple(dict.fromkeys([*table["measured_evidence"], EVIDENCE]))
    return Figure(
        "simulated_validation", "Simulated against measured", table, run_ids, levels, draw_validation
    )


def draw_validation(table: pd.DataFrame) -> Canvas:
    quantities = list(dict.fromkeys(table["quantity"]))
    links = list(dict.fromkeys(table["link"]))
    canvas, panels = plt.subplots(
        1, len(quantities), figsize=(3.6 * len(quantities), 3.5), squeeze=False, layout="constrained"
    )
    for panel, quantity in zip(panels.flat, quantities, strict=True):
        mine = table[table["quantity"] == quantity]
        for number, link in enumerate(links):
            part = mine[mine["link"] == link]
            look = {"color": PALETTE[number % len(PALETTE)], "marker": "os^Dv"[number % 5]}
            panel.plot(part["measured"], part["simulated"], linestyle="", markersize=4, label=link, **look)
        ends = [
            mine[["measured", "simulated"]].min().min() * 0.85,
            mine[["measured", "simulated"]].max().max() * 1.15,
        ]
        panel.plot(ends, ends, color=MUTED, linewidth=0.8)
        if quantity == "step seconds":
            panel.set_xscale("log")
            panel.set_yscale("log")
        panel.set_title(quantity)
        panel.set_xlabel("measured")
        panel.set_aspect("equal")
    panels.flat[0].set_ylabel("simulated (line: equal)")
    _legend_below(canvas, panels.flat[-1])
    return canvas
