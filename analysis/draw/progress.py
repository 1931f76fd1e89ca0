"""Figures in the form that papers give: training and held-out loss against steps, and against wall time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from analysis.draw.figure import Figure
from analysis.draw.losses import MAX_POINTS, Group, loss_groups, needed
from analysis.draw.speed import LEAST_STEPS
from analysis.draw.style import line_of
from analysis.judge.pairs import Matched, Recorded, few_seeds

SMOOTHED = 50  # a curve of noisy batches is drawn as the running mean over one part in so many of its steps
HOURS = 5400.0  # seconds from which an axis of time is in hours


def progress_figures(matched: Matched, summary: Mapping[str, Any]) -> list[Callable[[], Figure]]:
    """One figure per model, shape and training, of those that were measured in real time and are long enough."""
    timed = {run["run_id"] for run in (summary["throughput"] or {"runs": []})["runs"]}
    found: list[Callable[[], Figure]] = []
    for group in loss_groups(matched):
        mine = [pair for pair in group.pairs if pair.run.training.steps >= LEAST_STEPS]
        if any(pair.run_id in timed and pair.baseline_run_id in timed for pair in mine):
            found.append(partial(progress_figure, group))
    return found


def progress_figure(group: Group) -> Figure:
    """Loss of each run, baselines included, against steps and seconds of steps. HarnessError where a run is missing."""
    name = f"progress_{group.name}"
    runs: dict[str, Recorded] = {}
    for pair in few_seeds(group.pairs):
        for recorded, run_id in (
            (pair.recorded_baseline, pair.baseline_run_id),
            (pair.recorded, pair.run_id),
        ):
            runs[run_id] = needed(recorded, run_id, name)
    table = pd.concat([_rows(recorded) for recorded in runs.values()], ignore_index=True)
    title = f"{group.title}: loss against steps and wall time"
    evidence = tuple(dict.fromkeys(table["evidence"]))
    return Figure(name, title, table, tuple(dict.fromkeys(table["run_id"])), evidence, draw_progress)


def _rows(recorded: Recorded) -> pd.DataFrame:
    columns, steps = recorded.columns, len(recorded.columns["step"])
    held_out = np.asarray(columns["validation_loss"], dtype=float)
    keep = np.arange(0, steps, max(1, -(-steps // MAX_POINTS)))
    keep = np.union1d(np.append(keep, steps - 1), np.flatnonzero(np.isfinite(held_out)))
    seconds = np.cumsum(np.asarray(columns["step_seconds"], dtype=float))
    return pd.DataFrame(
        {
            "run_id": recorded.run_id,
            "variant": recorded.run.variant,
            "seed": recorded.run.seed,
            "evidence": recorded.run.evidence,
            "step": columns["step"][keep],
            "seconds": seconds[keep],
            "loss": columns["loss"][keep],
            "smoothed_loss": _smoothed(np.asarray(columns["loss"], dtype=float))[keep],
            "validation_loss": held_out[keep],
        }
    )


def _smoothed(loss: Any) -> Any:
    """Running mean over the steps before; as the values are where there are too few to smooth."""
    window = max(1, len(loss) // SMOOTHED)
    return pd.Series(loss).rolling(window, min_periods=1).mean().to_numpy()


def draw_progress(table: pd.DataFrame) -> Canvas:
    """Left by steps, right by time of the same steps; dots are held-out losses."""
    hours = table["seconds"].max() >= HOURS
    table = table.assign(time=table["seconds"] / (3600 if hours else 1))
    canvas, (by_step, by_time) = plt.subplots(1, 2, figsize=(6.8, 2.9), sharey=True, layout="constrained")
    variants = sorted(dict.fromkeys(table["variant"]), key=lambda name: line_of(name).order)
    handles: dict[str, Any] = {}
    for axes, x in ((by_step, "step"), (by_time, "time")):
        for variant in variants:
            _draw_variant(axes, table[table["variant"] == variant], x, variant, handles)
    by_step.set_xlabel("step")
    by_step.set_ylabel("loss (nats per token)")
    by_time.set_xlabel(f"{'hours' if hours else 'seconds'} of steps")
    for axes in (by_step, by_time):
        axes.set_axisbelow(True)
    low, high = _limits(table)
    by_step.set_ylim(low, high)
    by_step.set_title("lines: running mean of the training loss", fontsize=7.5)
    if table["validation_loss"].notna().any():
        by_time.set_title("dots: held-out loss", fontsize=7.5)
    canvas.legend(
        handles.values(),
        ["ZeRO-3 (baseline)" if name == "zero3" else name for name in handles],
        loc="outside lower center",
        ncols=len(handles),
        handlelength=3,
    )
    return canvas


def _draw_variant(axes: Axes, mine: pd.DataFrame, x: str, variant: str, handles: dict[str, Any]) -> None:
    line = line_of(variant)
    for _, rows in mine.groupby("run_id", sort=True):
        drawn = axes.plot(
            rows[x],
            rows["smoothed_loss"],
            color=line.colour,
            linestyle=line.dash,
            linewidth=line.width * 0.8,
            alpha=0.4 if variant == "zero3" else 0.9,
            zorder=line.order,
        )
        handles.setdefault(variant, drawn[0])
        known = rows[rows["validation_loss"].notna()]
        axes.plot(known[x], known["validation_loss"], "o", color=line.colour, markersize=2, zorder=line.order)


def _limits(table: pd.DataFrame) -> tuple[float, float]:
    """From the lowest loss to where the curves start; what diverges leaves the picture at its upper edge."""
    every = pd.concat([table["smoothed_loss"], table["validation_loss"]])
    finite: Iterable[float] = every[np.isfinite(every)]
    values = np.fromiter(finite, dtype=float)
    if not values.size:
        return 0.0, 1.0
    start = table.loc[table["step"] == table["step"].min(), "smoothed_loss"]
    top = float(start[np.isfinite(start)].max()) if np.isfinite(start).any() else float(values.max())
    bottom = float(values.min())
    margin = 0.05 * max(top - bottom, 1e-6)
    return bottom - margin, top + margin
