"""Figures as svg, png and pdf, each beside the table it was drawn from; every one names its runs and evidence level.

A figure is drawn from its table alone. A run that it needs and that is missing raises; no gap is left unseen.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.patches import Rectangle
from matplotlib.transforms import ScaledTranslation

from analysis.draw.settings import settings
from analysis.draw.style import GRID, INK, MUTED, RC, SIGNS, VERDICT_COLOURS, line_of
from analysis.judge.evidence import RANK
from analysis.judge.pairs import Matched, Pair, Recorded, few_seeds
from harness.study import Training
from harness.system.errors import HarnessError
from harness.system.whole_file import write_text_whole, write_whole

NAMED = (
    "zero3",
    "stock",
    "unordered",
    "sync-only",
    "fixed",
    "event",
)  # drawn as curves; the others are in the tables
CAPTION_RUNS = 24
STAMP_INCHES = 0.17
MAX_POINTS = 400  # of one curve; longer ones are thinned evenly, and the table with them
Record = Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class Figure:
    """A figure that can be drawn from `table` at any time."""

    name: str  # of its files
    title: str
    table: pd.DataFrame
    run_ids: tuple[str, ...]
    evidence: tuple[str, ...]
    draw: Callable[[pd.DataFrame], Canvas]

    @property
    def stamp(self) -> str:
        """What stands on the drawing itself: evidence level and number of runs; the table names them."""
        runs = f" · {len(self.run_ids)} run{'s' if len(self.run_ids) > 1 else ''}" if self.run_ids else ""
        return f"evidence: {', '.join(self.evidence)}{runs} · {self.name}.csv"

    @property
    def caption(self) -> str:
        """Evidence level and runs, by the hash that ends each run id."""
        if not self.run_ids:
            return f"Evidence: {', '.join(self.evidence)}."
        short = ", ".join(run_id.rsplit("_", 1)[-1] for run_id in self.run_ids[:CAPTION_RUNS])
        if len(self.run_ids) > CAPTION_RUNS:
            short += f" and {len(self.run_ids) - CAPTION_RUNS} more in the table"
        return f"Evidence: {', '.join(self.evidence)}. Runs: {short}."

    def svg(self) -> str:
        """The drawing as svg; the same table gives the same bytes."""
        with self._drawn() as save:
            return save("svg").decode()

    def write(self, folder: Path, formats: Sequence[str] = ("svg", "png", "pdf")) -> list[Path]:
        """Write the drawing and its table to `folder`; returns the files."""
        folder.mkdir(parents=True, exist_ok=True)
        files = [folder / f"{self.name}.csv"]
        write_text_whole(files[0], self.table.to_csv(index=False))
        with self._drawn() as save:
            for kind in formats:
                files.append(folder / f"{self.name}.{kind}")
                write_whole(files[-1], partial(Path.write_bytes, data=save(kind)))
        return files

    def _drawn(self) -> _Drawn:
        return _Drawn(self)


class _Drawn:
    """Context in which a figure is drawn once and saved in several formats."""

    def __init__(self, figure: Figure) -> None:
        self.figure = figure

    def __enter__(self) -> Callable[[str], bytes]:
        self._style = matplotlib.rc_context(RC)  # type: ignore[arg-type]  # its stubs list the keys one by one
        self._style.__enter__()
        self._canvas = self.figure.draw(self.figure.table)
        self._stamp()
        return self._save

    def _stamp(self) -> None:
        """One small line above the drawing: what a picture that is passed around must still say."""
        canvas = self._canvas
        canvas.set_figheight(canvas.get_figheight() + STAMP_INCHES)
        share = STAMP_INCHES / canvas.get_figheight()
        canvas.set_layout_engine("constrained", rect=(0, 0, 1, 1 - share))
        canvas.text(0.005, 1, self.figure.stamp, va="top", fontsize=6.5, color=MUTED)

    def _save(self, kind: str) -> bytes:
        stream = io.BytesIO()
        # Dates would make the same figure differ from one build to the next.
        stamp = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(kind, {})
        about = {"Title": self.figure.title} if kind in ("svg", "pdf", "png") else {}
        if kind == "svg":
            about |= {"Description": self.figure.caption + " Full ids: " + " ".join(self.figure.run_ids)}
        self._canvas.savefig(stream, format=kind, metadata={**about, **stamp}, dpi=160, bbox_inches="tight")
        return stream.getvalue()

    def __exit__(self, *_: object) -> None:
        plt.close(self._canvas)
        self._style.__exit__(None, None, None)


def inline(svg: str, label: str) -> str:
    """An svg for use inside a page: its own colours for ink and grid, an accessible name, and no prolog."""
    body = svg[svg.index("<svg") :]
    for colour, name in ((INK, "ink"), (MUTED, "muted"), (GRID, "grid")):
        body = body.replace(colour, f"var(--{name})")
    body = body.replace("'DejaVu Sans'", "system-ui")
    body = body.replace(
        "fill: #ffffff", "fill: none", 1
    )  # the sheet behind everything: the page is the sheet
    attributes = f'role="img" aria-label="{_attribute(label)}" '
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    # One page holds several figures, so ids must differ between them.
    prefix = f"f{sum(label.encode()) * 31 + len(label):x}-"
    body = re.sub(r'\bid="', f'id="{prefix}', body)
    body = re.sub(r'(href="#|url\(#)', rf"\g<1>{prefix}", body)
    return body.replace("<svg ", f"<svg {attributes}", 1)


def _attribute(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;")


def loss_figures(matched: Matched, summary: Record, bands: Any) -> list[Callable[[], Figure]]:
    """One figure per model, shape and training: each policy a panel. Calling one raises where a run is missing."""
    verdicts = {pair["run_id"]: pair for pair in summary["pairs"]}
    groups: dict[tuple[Any, ...], list[Pair]] = {}
    for pair in matched.pairs:
        if pair.run.variant in NAMED and pair.run.variant != "zero3":
            run = pair.run
            groups.setdefault((run.model, str(run.shape), run.device, str(run.training)), []).append(pair)
    trainings = [group[0].run.training.model_dump() for group in groups.values()]
    varying = [name for name in Training.model_fields if len({str(one[name]) for one in trainings}) > 1]
    labels = [", ".join(f"{name.replace('_', ' ')} {one[name]}" for name in varying) for one in trainings]
    names = distinct(
        file_name("_".join(["loss", model, shape, *([label] if label else [])]))
        for (model, shape, *_), label in zip(groups, labels, strict=True)
    )
    return [
        lambda name=name, label=label, group=group: _loss_figure(name, label, group, verdicts, bands)  # type: ignore[misc]
        for name, label, group in zip(names, labels, groups.values(), strict=True)
    ]


def file_name(text: str) -> str:
    """A figure's name from what a study calls things, which may be anything."""
    return re.sub(r"[^\w.+-]+", "-", text)


def distinct(names: Iterable[str]) -> list[str]:
    """The names, the second and later of each with its number."""
    seen: dict[str, int] = {}
    result = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        result.append(name if seen[name] == 1 else f"{name}_{seen[name]}")
    return result


def _loss_figure(
    name: str, label: str, pairs: list[Pair], verdicts: Mapping[str, Record], bands: Any
) -> Figure:
    run, few = pairs[0].run, few_seeds(pairs)
    baselines: dict[str, Recorded] = {}
    parts = []
    for pair in few:
        ours, theirs = (
            _needed(pair.recorded, pair.run_id, name),
            _needed(pair.recorded_baseline, pair.baseline_run_id, name),
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
    title = ", ".join(filter(None, (run.model, str(run.shape), label)))
    title += f": training loss by policy{' and link' if run.link else ''}{some}"
    return Figure(name, title, table, run_ids, evidence, draw_loss)


def _needed(recorded: Recorded | None, run_id: str, figure: str) -> Recorded:
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


def matrix_figure(summary: Record) -> Figure:
    """The verdict of every variant (row) on every model, policy and setting (column), the worst over seeds."""
    rows = [
        {
            "model": pair["model"],
            "policy": pair["schedule"],
            "settings": setting,
            "variant": pair["variant"],
            "verdict": pair["verdict"],
            "first_bad_step": pair["first_bad_step"],
            "evidence": pair["evidence"],
            "run_id": pair["run_id"],
        }
        for pair, setting in zip(summary["pairs"], settings(summary["pairs"]), strict=True)
    ]
    if not rows:
        raise HarnessError("figure verdicts needs a pair, and every run of this study is a baseline")
    missing = [row["run_id"] for row in rows if row["verdict"] is None]
    if missing:
        raise HarnessError(
            f"figure verdicts needs run {missing[0]} and {len(missing) - 1} more that have no verdict"
        )
    table = pd.DataFrame(rows)
    evidence = tuple(sorted(set(table["evidence"])))
    return Figure(
        "verdicts",
        "Verdict by variant, model, policy and what else differs",
        table,
        tuple(table["run_id"]),
        evidence,
        draw_matrix,
    )


def draw_matrix(table: pd.DataFrame) -> Canvas:
    """A grid of verdicts, each cell with its sign and, where it failed, the first bad step."""
    table = table.fillna({"settings": ""})  # read back from csv, an empty text is missing
    names = ["model", "policy", "settings"]
    worst = table.loc[table["verdict"].map(RANK).groupby([table[k] for k in (*names, "variant")]).idxmax()]
    models = list(dict.fromkeys(table["model"]))
    columns = sorted(
        dict.fromkeys(table[names].itertuples(index=False, name=None)), key=lambda one: models.index(one[0])
    )
    variants = list(dict.fromkeys(table["variant"]))
    # An order that all columns share needs no word where something else tells them apart.
    shared = table["policy"].nunique() == 1 and (table["settings"] != "").all()
    labels = [", ".join(filter(None, column[2 if shared else 1 :])) for column in columns]
    slanted = 0.05 * max(map(len, labels))  # inches
    canvas, axes = plt.subplots(
        figsize=(1.7 + 0.62 * len(columns), 0.7 + 0.27 * len(variants) + slanted), layout="constrained"
    )
    for row in worst.to_dict("records"):
        x, y = columns.index(tuple(row[name] for name in names)), variants.index(row["variant"])
        axes.add_patch(Rectangle((x, y), 1, 1, facecolor=VERDICT_COLOURS[row["verdict"]], edgecolor="white"))
        bad = "" if pd.isna(row["first_bad_step"]) else f" {int(row['first_bad_step'])}"
        axes.text(
            x + 0.5,
            y + 0.5,
            f"{SIGNS[row['verdict']]}{bad}",
            ha="center",
            va="center",
            color="#111111",
            fontsize=7.5,
        )
    axes.set(xlim=(0, len(columns)), ylim=(len(variants), 0))
    axes.set_xticks(np.arange(len(columns)) + 0.5, labels, rotation=45, ha="right")
    axes.set_yticks(np.arange(len(variants)) + 0.5, variants)
    axes.tick_params(length=0)
    axes.grid(False)
    for model in dict.fromkeys(column[0] for column in columns):
        places = [i for i, column in enumerate(columns) if column[0] == model]
        axes.text((places[0] + places[-1] + 1) / 2, -0.25, model, ha="center", va="bottom", fontsize=8)
        axes.axvline(places[-1] + 1, color=MUTED, linewidth=0.6)
    for spine in axes.spines.values():
        spine.set_visible(False)
    canvas.supxlabel("= exact   ≈ equivalent   △ drifted   ✕ diverged; number: first bad step", fontsize=7.5)
    return canvas
