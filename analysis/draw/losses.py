"""Figures of training losses: one for each model, shape and training, each order a panel."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.transforms import ScaledTranslation

from analysis.draw.figure import Figure, distinct, file_name
from analysis.draw.style import MUTED, line_of
from analysis.judge.axes import axes_text, further_axes
from analysis.judge.pairs import Matched, Pair, Recorded, few_seeds
from harness.study import Run, Training
from harness.system.errors import HarnessError

# Drawn as curves; the others are in the tables.
NAMED = ("zero3", "stock", "unordered", "sync-only", "fixed", "event")
MAX_POINTS = 400  # of one curve; longer ones are thinned evenly, and the table with them
Record = Mapping[str, Any]


@dataclass(frozen=True)
class Group:
    """Pairs of one model, shape and training, which share a figure."""

    name: str  # for the figure's file
    label: str  # what sets the group apart beside model and shape; may be empty
    pairs: list[Pair]

    @property
    def title(self) -> str:
        run = self.pairs[0].run
        return ", ".join(filter(None, (run.model, str(run.shape), self.label)))


def loss_groups(matched: Matched) -> list[Group]:
    """The pairs of named variants by model, shape and training, as the study has them."""
    groups: dict[tuple[Any, ...], list[Pair]] = {}
    for pair in matched.pairs:
        if pair.run.variant in NAMED and pair.run.variant != "zero3":
            run = pair.run
            further = str(further_axes(matched.study, run))
            key = (run.model, str(run.shape), run.device, str(run.training), further)
            groups.setdefault(key, []).append(pair)
    firsts = [group[0].run for group in groups.values()]
    trainings = [run.training.model_dump() for run in firsts]
    varying = [name for name in Training.model_fields if len({str(one[name]) for one in trainings}) > 1]
    if len({run.tokens_per_step for run in firsts}) == 1 and "gradient_accumulation" in varying:
        varying.remove("gradient_accumulation")  # a constant global batch: it follows from the shape
    labels = [
        ", ".join(filter(None, (*_words(training, varying), _deepspeed_words(matched, run))))
        for training, run in zip(trainings, firsts, strict=True)
    ]
    names = distinct(
        file_name("_".join([model, shape, *([label] if label else [])]))
        for (model, shape, *_), label in zip(groups, labels, strict=True)
    )
    return [Group(*parts) for parts in zip(names, labels, groups.values(), strict=True)]


def _words(training: Mapping[str, Any], varying: list[str]) -> list[str]:
    return [f"{name.replace('_', ' ')} {training[name]}" for name in varying]


def _deepspeed_words(matched: Matched, run: Run) -> str:
    """Swept keys of DeepSpeed's JSON; those of the training are fields of it."""
    axes = further_axes(matched.study, run)
    return axes_text({name: value for name, value in axes.items() if name.startswith("deepspeed.")})


def loss_figures(matched: Matched, summary: Record, bands: Any) -> list[Callable[[], Figure]]:
    """One figure per model, shape and training: each policy a panel. Calling one raises where a run is missing."""
    verdicts = {pair["run_id"]: pair for pair in summary["pairs"]}
    return [
        partial(_loss_figure, f"loss_{group.name}", group, verdicts, bands) for group in loss_groups(matched)
    ]


def _loss_figure(name: str, group: Group, verdicts: Mapping[str, Record], bands: Any) -> Figure:
    pairs = group.pairs
    run, few = pairs[0].run, few_seeds(pairs)
    baselines: dict[str, Recorded] = {}
    parts = []
    for pair in few:
        ours, theirs = (
            needed(pair.recorded, pair.run_id, name),
            needed(pair.recorded_baseline, pair.baseline_run_id, name),
        )
        baselines[theirs.run_id] = theirs
        panel = ", ".join(filter(None, (ours.run.schedule, ours.run.link)))
        parts.append(_curve_rows(ours, panel, verdicts.get(ours.run_id)))
        parts.append(_curve_rows(theirs, panel, None))
    table = pd.concat(parts, ignore_index=True).drop_duplicates()
    first = next(iter(baselines.values()))
    table = _with_band(table, first, bands.of(first))
    run_ids = tuple(dict.fromkeys(table["run_id"]))
    evidence = tuple(dict.fromkeys(table["evidence"]))
    seeds, drawn = {pair.run.seed for pair in pairs}, {pair.run.seed for pair in few}
    some = f" ({len(drawn)} of {len(seeds)} seeds)" if drawn != seeds else ""
    title = f"{group.title}: training loss by policy{' and link' if run.link else ''}{some}"
    return Figure(name, title, table, run_ids, evidence, draw_loss)


def needed(recorded: Recorded | None, run_id: str, figure: str) -> Recorded:
    """The run, which a figure cannot do without. Raises HarnessError with the reason why there is none."""
    if recorded is None or recorded.unfit:
        reason = recorded.unfit if recorded else "not started"
        raise HarnessError(
            f"figure {figure} needs run {run_id}, which has not finished ({reason}); run the study again"
        )
    return recorded


def _curve_rows(recorded: Recorded, panel: str, pair: Record | None) -> pd.DataFrame:
    run, steps = recorded.run, recorded.columns["step"]
    bad = pair["first_bad_step"] if pair else None
    keep = np.arange(0, len(steps), max(1, -(-len(steps) // MAX_POINTS)))
    keep = np.union1d(keep, [index for index in (bad, len(steps) - 1) if index is not None]).astype(int)
    return pd.DataFrame(
        {
            "panel": panel,
            "run_id": recorded.run_id,
            "variant": run.variant,
            "seed": run.seed,
            "evidence": run.evidence,
            "verdict": pair["verdict"] if pair else "baseline",
            "first_bad_step": pd.array([bad] * len(keep), dtype="Int64"),
            "step": steps[keep],
            "loss": recorded.columns["loss"][keep],
            "grad_norm": recorded.columns["grad_norm"][keep],
        }
    )


def _with_band(table: pd.DataFrame, baseline: Recorded, band: Any) -> pd.DataFrame:
    if band is None:
        return table.assign(band_low=np.nan, band_high=np.nan)
    mine = (table["run_id"] == baseline.run_id).to_numpy()
    steps = table["step"].to_numpy().astype(int)[mine]
    table = table.assign(band_low=np.nan, band_high=np.nan)
    for name, sign in (("band_low", -1), ("band_high", 1)):
        table.loc[mine, name] = (band.centre + sign * band.half_width)[steps]
    return table


def draw_loss(table: pd.DataFrame) -> Canvas:
    """Panels by policy: baseline with its band, and each variant until it ends; a sign marks the first bad step."""
    panels = list(dict.fromkeys(table["panel"]))
    width = max(4.6, 2.35 * len(panels) + 0.6)
    canvas, grid = plt.subplots(
        1, len(panels), figsize=(width, 2.7), sharey=True, squeeze=False, layout="constrained"
    )
    low, high, logarithmic = _loss_range(table)
    handles: dict[str, Any] = {}
    for axes, panel in zip(grid[0], panels, strict=True):
        axes.set_title(_panel_title(panel))
        axes.set_xlabel("step")
        if logarithmic:
            axes.set_yscale("log")
        axes.set_ylim(low, high)
        part = table[table["panel"] == panel]
        axes.set_xlim(-0.03 * part["step"].max(), part["step"].max() * 1.03)
        for variant in sorted(set(part["variant"]), key=_draw_order):
            for _, rows in part[part["variant"] == variant].groupby(["run_id"], sort=True):
                _draw_curve(axes, rows, variant, handles, low, high)
    grid[0][0].set_ylabel("loss (nats per token)")
    names = sorted(handles, key=_draw_order)
    labels = ["ZeRO-3 (baseline)" if name == "zero3" else name for name in names]
    canvas.legend(
        [handles[name] for name in names],
        labels,
        loc="outside lower center",
        ncols=len(names),
        handlelength=3,
    )
    return canvas


def _draw_curve(
    axes: Axes, rows: pd.DataFrame, variant: str, handles: dict[str, Any], low: float, high: float
) -> None:
    line = line_of(variant)
    step, loss = rows["step"].to_numpy(), rows["loss"].to_numpy()
    if rows["band_low"].notna().any():
        axes.fill_between(step, rows["band_low"], rows["band_high"], color=MUTED, alpha=0.16, linewidth=0)
    alpha = 0.35 if variant == "zero3" else 1.0
    drawn = axes.plot(
        step,
        loss,
        color=line.colour,
        linestyle=line.dash,
        linewidth=line.width,
        zorder=line.order,
        alpha=alpha,
    )
    handles.setdefault(variant, drawn[0])
    bad = rows["first_bad_step"].iloc[0]
    if pd.isna(bad):
        return
    value = float(loss[step == bad][0])
    inside = np.isfinite(value) and low <= value <= high
    # What has no height is marked at the upper edge, the signs side by side.
    height = value if inside else high
    offset = {"stock": -3.0, "unordered": 3.0}.get(variant, 0)
    canvas = axes.get_figure(root=True)
    assert canvas is not None
    shift = ScaledTranslation(offset / 72, 0, canvas.dpi_scale_trans)
    sign = {"marker": line.marker or "D", "markersize": 6, "markeredgecolor": "white", "markeredgewidth": 0.6}
    axes.plot(
        [float(bad)],
        [height],
        color=line.colour,
        zorder=8,
        clip_on=False,
        transform=axes.transData + shift,
        **sign,  # type: ignore[arg-type]
    )


def _panel_title(panel: str) -> str:
    policy, *link = panel.split(", ")
    words = {"eager": "eager (program order)", "native": "as the device ran it"}.get(policy, policy)
    return ", ".join([words, *link])


def _draw_order(variant: str) -> tuple[int, str]:
    return (NAMED.index(variant) if variant in NAMED else len(NAMED), variant)


def _loss_range(table: pd.DataFrame) -> tuple[float, float, bool]:
    """Axis limits that show the baseline well, and whether a far drift asks for a logarithmic axis."""
    finite = table[np.isfinite(table["loss"])]
    reference = finite[finite["verdict"] == "baseline"]["loss"]
    reference = reference if len(reference) else finite["loss"]
    if not len(reference):
        return 0.0, 1.0, False
    top, bottom = float(finite["loss"].max()), float(min(reference.min(), finite["loss"].min()))
    if top > 4 * float(reference.max()) and bottom > 0:
        return bottom * 0.9, top * 1.15, True
    margin = 0.06 * max(top - bottom, 1e-6)
    return bottom - margin, top + margin, False
