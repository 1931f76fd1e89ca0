"""The figure of all verdicts: variants by model, policy and setting."""

from __future__ import annotations

from collections.abc import Mapping
from textwrap import fill
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.figure import Figure as Canvas
from matplotlib.patches import Rectangle

from analysis.draw.figure import Figure
from analysis.draw.settings import settings
from analysis.draw.style import MUTED, SIGNS, VERDICT_COLOURS
from analysis.judge.evidence import RANK
from harness.system.errors import HarnessError

Record = Mapping[str, Any]
LETTERS_A_COLUMN = 10.5  # of a model's name, which else runs into its neighbour's


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
            "smallest_drift": pair["smallest_drift"],
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
        if row["verdict"] == "equivalent":
            bad = f" {row['smallest_drift']:.2g}"
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
        name = fill(model, int(LETTERS_A_COLUMN * len(places)), break_long_words=False)
        axes.text((places[0] + places[-1] + 1) / 2, -0.25, name, ha="center", va="bottom", fontsize=8)
        axes.axvline(places[-1] + 1, color=MUTED, linewidth=0.6)
    for spine in axes.spines.values():
        spine.set_visible(False)
    words = "= exact   ≈ equivalent   △ drifted   ✕ diverged; number: first bad step"
    if (table["verdict"] == "equivalent").any():
        words += "; of ≈: the drift that would have shown, nats"
    canvas.supxlabel(words, fontsize=7.5)
    return canvas
