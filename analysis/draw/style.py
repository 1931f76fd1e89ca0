"""One look for every figure: colours that colour-blind readers and black-and-white print tell apart, and the rest.

The palette is that of Okabe and Ito (2008). No two variants that are drawn together differ in colour alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

INK, MUTED, GRID = "#1f2328", "#57606a", "#d8dee4"  # the report replaces them by its own, light or dark
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#e69f00", "#cc79a7", "#56b4e9")


@dataclass(frozen=True)
class Line:
    """How one variant is drawn."""

    colour: str
    dash: Any = "-"  # a matplotlib line style
    width: float = 1.4
    marker: str = ""
    order: float = 3.0


VARIANTS: dict[str, Line] = {
    "zero3": Line(MUTED, "-", 4.0, order=1),
    "stock": Line("#d55e00", (0, (7, 2)), 1.5, "X", 6),
    "unordered": Line("#e69f00", (2, (4, 2.5)), 1.5, "s", 5),
    "fixed": Line("#0072b2", "-", 1.5, order=3),
    "event": Line("#009e73", (0, (2, 2)), 1.5, order=4),
    "sync-only": Line("#cc79a7", (0, (6, 1, 1, 1)), 1.5, "P", 4.5),
    "device-sync": Line("#56b4e9", (0, (1, 1)), 1.5, order=3.5),
    "event+step": Line("#009e73", (0, (4, 1)), 1.5, order=4.1),
    "zero3+step": Line(MUTED, (0, (1, 1)), 2.0, order=1.5),
}
# Verdicts carry a sign as well as a colour.
SIGNS = {"exact": "=", "equivalent": "≈", "drifted": "△", "diverged": "✕", None: "–"}
VERDICT_COLOURS = {
    "exact": "#bfe3d0",
    "equivalent": "#d5e8f5",
    "drifted": "#fbe3ae",
    "diverged": "#f3c0a8",
    None: "#ffffff",
}

DOT: dict[str, Any] = {"markersize": 4, "markeredgecolor": "white", "markeredgewidth": 0.4}  # one pair
RC: dict[str, Any] = {
    "svg.hashsalt": "hpz-lab",  # ids inside the svg do not change from one build to the next
    "svg.fonttype": "none",  # text stays text: searchable, and read out by screen readers
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 8.5,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "axes.labelsize": 8.5,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": GRID,
    "grid.linewidth": 0.5,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "legend.frameon": False,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "white",
    "path.simplify": True,
}


def line_of(variant: str) -> Line:
    """The line of a variant; unnamed ones share a few colours."""
    if variant in VARIANTS:
        return VARIANTS[variant]
    return Line(PALETTE[sum(variant.encode()) % len(PALETTE)], (0, (3, 1, 1, 1)), 1.2)
