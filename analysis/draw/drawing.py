"""All figures of a study, drawn and written; one that lacks a run carries the reason in place of the picture."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from markupsafe import Markup

from analysis.collect.collect import collect_study
from analysis.draw.against import against_figure
from analysis.draw.costs import cost_figures, lines_figure
from analysis.draw.figure import Figure, inline
from analysis.draw.losses import loss_figures
from analysis.draw.missing import missing_figures
from analysis.draw.progress import progress_figures
from analysis.draw.rates import gpu_figures
from analysis.draw.simulated import simulated_figures
from analysis.draw.speed import speed_figures
from analysis.draw.validation import validation_figure
from analysis.draw.verdicts import matrix_figure
from analysis.judge.clock_tables import Clock, load_clock
from analysis.judge.evidence import ran
from analysis.judge.pair_records import Bands
from analysis.judge.pairs import Matched, match
from analysis.judge.summary import summarise_matched
from harness.study import load_study
from harness.system.errors import HarnessError


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
    matrix: Drawn | None
    costs: list[Drawn]
    lines: Drawn | None
    missing: list[Drawn]
    gpu: list[Drawn]
    progress: list[Drawn]
    speed: list[Drawn]
    clock: dict[str, Drawn]  # of simulated time, by name

    def every(self) -> list[Drawn]:
        alone = [one for one in (self.matrix, self.lines) if one]
        many = (self.losses, alone, self.costs, self.missing, self.gpu, self.progress, self.speed)
        return [one for part in (*many, self.clock.values()) for one in part]


def draw_all(
    matched: Matched, summary: Mapping[str, Any], folder: Path, clock: Clock | None = None
) -> AllDrawn:
    """Draw every figure of a study and write it to `folder`; without losses, those of its clock."""
    trained = ran(summary)
    losses = loss_figures(matched, summary, Bands(matched)) if trained else []
    lines = lines_figure(matched)
    return AllDrawn(
        losses=[_drawn(make, folder) for make in losses],
        matrix=_drawn(partial(matrix_figure, summary), folder) if trained and summary["pairs"] else None,
        costs=[_drawn(make, folder) for make in cost_figures(summary)],
        lines=_written(lines, folder) if lines else None,
        missing=[_drawn(make, folder) for make in missing_figures(matched.study)],
        gpu=[_drawn(make, folder) for make in gpu_figures(summary)],
        progress=[_drawn(make, folder) for make in progress_figures(matched, summary)],
        speed=[_drawn(make, folder) for make in speed_figures(summary)],
        clock={figure.name: _written(figure, folder) for figure in clock_figures(clock)},
    )


def clock_figures(clock: Clock | None) -> list[Figure]:
    """Validation first, then what the clock found."""
    if clock is None:
        return []
    held = clock.validation
    against = against_figure(held.table) if held and len(held.table) else None
    made = [against, validation_figure(held) if held else None]
    return [*(figure for figure in made if figure), *simulated_figures(clock.simulated)]


def build_figures(folder: str | Path) -> list[Drawn]:
    """Rebuild the figures of a results folder, nothing else. Raises HarnessError where it holds no study or no run."""
    folder = Path(folder)
    collected = collect_study(folder)
    matched = match(load_study(folder), collected)
    clock = load_clock(folder, matched.study.name)
    return draw_all(matched, summarise_matched(matched, collected), folder / "figures", clock).every()


def _drawn(make: Callable[[], Figure], folder: Path) -> Drawn:
    try:
        figure = make()
    except HarnessError as error:
        return Drawn("Not drawn", None, str(error))
    return _written(figure, folder)


def _written(figure: Figure, folder: Path) -> Drawn:
    files = figure.write(folder)
    svg = next(file for file in files if file.suffix == ".svg").read_text()
    label = f"{figure.title}. The table {figure.name}.csv holds its values."
    return Drawn(figure.title, Markup(inline(svg, label)), figure.caption, tuple(file.name for file in files))
