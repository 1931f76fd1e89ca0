"""The scatter of simulated against published measurements, with the range that unknown settings leave."""

from __future__ import annotations

import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.figure import Figure as Canvas

from analysis.draw.figure import Figure
from analysis.draw.style import MUTED, PALETTE
from analysis.judge.trust import CARDS
from harness.simulate.records import EVIDENCE


def against_figure(table: pd.DataFrame) -> Figure | None:
    """Relative: each row's simulated value and range over the measured one; None where no row is comparable."""
    good = table[table["comparable"] & table["error"].notna()].copy()
    if good.empty:
        return None
    good["card"] = [next((card for card in CARDS if card in text), "other") for text in good["gpu_type"]]
    columns = ["row", "model", "card", "metric", "measured", "predicted", "low", "high"]
    drawn = good[columns].assign(evidence=EVIDENCE)
    return Figure("against", "Simulated against published", drawn, (), (EVIDENCE, "published"), draw_against)


def draw_against(table: pd.DataFrame) -> Canvas:
    canvas, panel = plt.subplots(figsize=(6.4, 3.6), layout="constrained")
    ordered = table.assign(ratio=table["predicted"] / table["measured"]).sort_values(["card", "row"])
    ordered = ordered.reset_index(drop=True)
    for number, (card, part) in enumerate(ordered.groupby("card", sort=True)):
        colour = PALETTE[number % len(PALETTE)]
        low, high = (part[name] / part["measured"] for name in ("low", "high"))
        panel.vlines(part.index, low, high, color=colour, linewidth=1.0, alpha=0.45)
        marker = "os^Dv"[number % 5]
        panel.plot(
            part.index, part["ratio"], linestyle="", marker=marker, markersize=3.5, color=colour, label=card
        )
    panel.axhline(1.0, color=MUTED, linewidth=0.8)
    panel.set_yscale("log", base=2)
    panel.set_yticks([0.25, 0.5, 1, 2, 4], labels=["¼", "½", "1", "2", "4"])
    panel.set_ylabel("simulated over measured")
    panel.set_xlabel("measurements; lines: what is not stated leaves open")
    panel.set_xticks([])
    panel.legend(ncols=6, fontsize=7, loc="upper left")
    return canvas
