"""All figures of a study, drawn and written; one that lacks a run carries the reason in place of the picture."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from markupsafe import Markup

from analysis.collect import collect_study
from analysis.costs import cost_figures
from analysis.figures import Figure, inline, loss_figures, matrix_figure
from analysis.pairs import Matched, match
from analysis.summary import Bands, summarise_matched
from harness.errors import HarnessError
from harness.study import load_study


@dataclass(frozen=True)
class Drawn:
    """A figure for the page, or the reason why it could not be drawn."""

    title: str
    svg: Markup | None
    caption: str
    files: tuple[str, ...] = ()


@dataclass(frozen=True)
class AllDrawn:
    """The figures of one study."""

    losses: list[Drawn]
    matrix: Drawn
    costs: list[Drawn]


def draw_all(matched: Matched, summary: Mapping[str, Any], folder: Path) -> AllDrawn:
    """Draw every figure of a study and write it to `folder`."""
    return AllDrawn(
        losses=[_drawn(make, folder) for make in loss_figures(matched, summary, Bands(matched))],
        matrix=_drawn(partial(matrix_figure, summary), folder),
        costs=[_drawn(make, folder) for make in cost_figures(summary)],
    )


def build_figures(folder: str | Path) -> list[Drawn]:
    """Rebuild the figures of a results folder, nothing else. Raises HarnessError where it holds no study or no run."""
    folder = Path(folder)
    collected = collect_study(folder)
    matched = match(load_study(folder), collected)
    drawn = draw_all(matched, summarise_matched(matched, collected), folder / "figures")
    return [*drawn.losses, drawn.matrix, *drawn.costs]


def _drawn(make: Callable[[], Figure], folder: Path) -> Drawn:
    try:
        figure = make()
    except HarnessError as error:
        return Drawn("Not drawn", None, str(error))
    files = figure.write(folder)
    svg = next(file for file in files if file.suffix == ".svg").read_text()
    label = f"{figure.title}. The table {figure.name}.csv holds its values."
    return Drawn(figure.title, Markup(inline(svg, label)), figure.caption, tuple(file.name for file in files))
