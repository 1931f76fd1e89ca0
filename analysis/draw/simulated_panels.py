"""What the figures of simulated time have in common; every one is drawn from its table and labelled so."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from analysis.draw.figure import Figure
from harness.simulate.records import EVIDENCE


def figure(name: str, title: str, table: pd.DataFrame, draw: Any) -> Figure:
    run_ids = tuple(dict.fromkeys(table["run_id"])) if "run_id" in table else ()
    return Figure(name, f"{title} (simulated time)", table, run_ids, (EVIDENCE,), draw)


def grid(count: int, height: float = 2.2, share: bool = False) -> tuple[Canvas, list[Axes]]:
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


def legend_below(canvas: Canvas, panel: Axes) -> None:
    handles, names = panel.get_legend_handles_labels()
    canvas.legend(handles, names, loc="outside lower center", ncols=len(names), fontsize=7)


def short(network: str) -> str:
    kind, _, rate = network.partition("-")
    return f"{'Eth' if kind == 'ethernet' else 'IB'} {rate.removesuffix('gbps')}"
