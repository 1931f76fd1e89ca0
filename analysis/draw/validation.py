"""The figure of simulated against measured."""

from __future__ import annotations

import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.figure import Figure as Canvas

from analysis.draw.figure import Figure
from analysis.draw.simulated_panels import legend_below
from analysis.draw.style import MUTED, PALETTE
from analysis.judge.trust import records
from harness.simulate.records import EVIDENCE
from harness.simulate.validate import Validation


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
    legend_below(canvas, panels.flat[-1])
    return canvas
