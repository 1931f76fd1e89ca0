"""The report: one self-contained HTML file from a results folder, with figures and summary.json beside it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from analysis import page
from analysis.collect import collect_study
from analysis.compare import arrow, compare_summaries
from analysis.explorer import as_script, explorer_data
from analysis.figures import Figure, inline, loss_figures, matrix_figure
from analysis.pairs import Matched, match
from analysis.summary import Bands, load_summary, shape_text, summarise_matched, write_summary
from analysis.text import latex, markdown
from harness.errors import HarnessError
from harness.study import load_study
from harness.variants import Variant, describe, installed_release
from harness.variants.describe import what

UPLOT = "1.6.32"
TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class Drawn:
    """A figure for the page, or the reason why it could not be drawn."""

    title: str
    svg: Markup | None
    caption: str
    files: tuple[str, ...] = ()


@dataclass(frozen=True)
class Comparison:
    """Another study's summary and what differs from it."""

    folder: str
    summary: Mapping[str, Any]
    rows: list[dict[str, Any]]


@dataclass(frozen=True)
class Explained:
    """A variant in words and lines."""

    variant: str
    what: str
    patches: Mapping[str, str]
    diff: list[tuple[str, str]]  # (kind of line, line); kind: add, del, hunk, same
    note: str


def build_report(folder: str | Path, against: str | Path | None = None) -> Path:
    """Collect, judge and write a results folder's report; returns report.html.

    Beside it: summary.json, report.md, verdicts.tex and figures/. `against` is another results folder, with its own
    summary.json, that the page is to compare with.

    Raises HarnessError where the folder holds no study or no run, or an hpZ run proves nothing.
    """
    folder = Path(folder)
    study = load_study(folder)
    collected = collect_study(folder)
    matched = match(study, collected)
    summary = summarise_matched(matched, collected)
    changes = compare_summaries(summary, other := load_summary(against)) if against else []
    write_summary(folder, summary)
    _replace(folder / "report.md", markdown(summary))
    _replace(folder / "verdicts.tex", latex(summary))
    bands = Bands(matched)
    figures = [_drawn(make, folder / "figures") for make in loss_figures(matched, summary, bands)]
    matrix = _drawn(partial(matrix_figure, summary), folder / "figures")
    comparison = Comparison(str(against), other, changes) if against else None
    html = render(matched, summary, figures, matrix, comparison)
    return _replace(folder / "report.html", html)


def _drawn(make: Callable[[], Figure], folder: Path) -> Drawn:
    try:
        figure = make()
    except HarnessError as error:
        return Drawn("Not drawn", None, str(error))
    files = figure.write(folder)
    svg = next(file for file in files if file.suffix == ".svg").read_text()
    label = f"{figure.title}. The table below the figure's name, {figure.name}.csv, holds its values."
    return Drawn(figure.title, Markup(inline(svg, label)), figure.caption, tuple(f.name for f in files))


def render(
    matched: Matched,
    summary: Mapping[str, Any],
    figures: list[Drawn],
    matrix: Drawn,
    comparison: Comparison | None = None,
) -> str:
    """The page as text. Everything that comes from a run is escaped by the template engine."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"size": page.size, "shape": shape_text, "arrow": arrow}
    return environment.get_template("report.html.j2").render(
        summary=summary,
        headline=page.headline(summary),
        answers=page.answers(summary),
        grids=page.grids(summary),
        rule=page.band_note(summary),
        pairs=page.pair_rows(summary),
        faults=page.faults(summary),
        figures=figures,
        comparison=comparison,
        matrix=matrix,
        variants=explained(summary),
        patches=patches_of(summary),
        explorer=Markup(as_script(groups)) if (groups := explorer_data(matched, summary)) else None,
        style=_own("style.css"),
        script=_own("report.js"),
        chart_style=_own(f"vendor/uPlot-{UPLOT}.min.css"),
        chart_script=_own(f"vendor/uPlot-{UPLOT}.iife.min.js"),
    )


def _own(name: str) -> Markup:
    """A file of the templates folder, to be put into the page as it is."""
    return Markup((TEMPLATES / name).read_text())


def explained(summary: Mapping[str, Any]) -> list[Explained]:
    """Every variant of the study, with its diff where the DeepSpeed that it was built from is at hand."""
    return [
        _explained(variant, release)
        for variant, release in dict.fromkeys((pair["variant"], pair["release"]) for pair in summary["pairs"])
    ]


def patches_of(summary: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Variant, patch file and sha256, as the runs recorded them, each once."""
    rows = ((pair["variant"], *item) for pair in summary["pairs"] for item in pair["patch_sha256"].items())
    return list(dict.fromkeys(rows))


def _explained(name: str, release: str) -> Explained:
    variant = Variant.parse(name)
    if installed_release() != release:
        note = f"The lines are shown where DeepSpeed {release} is installed: hpz patch show {name}"
        return Explained(name, what(variant), {}, [], note)
    found = describe(variant, release)
    note = "" if found.diff else f"DeepSpeed {release} as released; no line is changed."
    return Explained(
        name, found.what, found.patches, [_diff_line(line) for line in found.diff.splitlines()], note
    )


def _diff_line(line: str) -> tuple[str, str]:
    kinds = {"@@": "hunk", "++": "file", "--": "file"}
    if line[:2] in kinds and (line.startswith(("@@", "+++", "---"))):
        return kinds[line[:2]], line
    return {"+": "add", "-": "del"}.get(line[:1], "same"), line


def _replace(file: Path, text: str) -> Path:
    beside = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    try:
        beside.write_text(text)
        beside.replace(file)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise HarnessError(
            f"{file}: cannot be written ({error.strerror}); free space and try again"
        ) from error
    return file
