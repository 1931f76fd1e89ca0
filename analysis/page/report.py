"""The report: one self-contained HTML file from a results folder, with summary.json, text and figures beside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from analysis.collect.collect import collect_study
from analysis.draw.drawing import draw_all
from analysis.draw.settings import shape_text
from analysis.judge.clock_tables import load_clock, order_rows
from analysis.judge.evidence import ran
from analysis.judge.pairs import match
from analysis.judge.race_matrix import fault_sentence, load_matrix
from analysis.judge.races import waits
from analysis.judge.summary import load_summary, summarise_matched, write_summary
from analysis.judge.trust import percent
from analysis.judge.wire import unfilled
from analysis.judge.witness import profiles
from analysis.page.answers import WHO, answers, headline
from analysis.page.compare import arrow
from analysis.page.explained import explained, notes_of, patches_of
from analysis.page.explorer import as_script, explorer_data
from analysis.page.grids import band_note, grids
from analysis.page.hours import NOTE, spent_rows
from analysis.page.levels import compared
from analysis.page.loop import loop_note, loops_differ
from analysis.page.races import race_rows
from analysis.page.simulated import section
from analysis.page.speed import hours_sentences, seconds, shown, throughput_rows
from analysis.page.tables import faults, interval, pair_rows, seed_rows, size
from analysis.page.text import latex, latex_orders, markdown
from harness.study import load_study
from harness.system.whole_file import write_text_whole
from harness.words import WORDS

UPLOT = "1.6.32"
TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class Comparison:
    """Another study's summary, what differs from it, and what it says at another level of evidence."""

    folder: str
    summary: Mapping[str, Any]
    rows: list[dict[str, Any]]
    levels: list[dict[str, Any]]
    loops: str | None = None  # where the two did not train with the same


def build_report(folder: str | Path, against: str | Path | None = None) -> Path:
    """Collect, judge and write a results folder's report; returns report.html.

    Beside it: summary.json, report.md, verdicts.tex, simulated.tex (of simulated time) and figures/. `against` is
    another results folder, with its own summary.json, that the page is to compare with.

    Raises HarnessError where the folder holds no study or no run, or an hpZ run proves nothing.
    """
    folder = Path(folder)
    collected = collect_study(folder)
    matched = match(load_study(folder), collected)
    summary = summarise_matched(matched, collected)
    comparison = _compare(summary, against) if against else None
    clock = load_clock(folder, matched.study.name)
    analysed = load_matrix(folder)
    drawn = draw_all(matched, summary, folder / "figures", clock)
    groups = explorer_data(matched, summary)
    html = render(
        summary,
        figures=drawn.losses,
        matrix=drawn.matrix,
        costs=drawn.costs,
        lines=drawn.lines,
        missing=drawn.missing,
        rates=drawn.gpu,
        progress=drawn.progress,
        speeds=drawn.speed,
        profiles=profiles(folder),
        comparison=comparison,
        loop_note=loop_note(summary),
        clock=section(clock),
        clock_figures=drawn.clock,
        races=race_rows(matched, folder),
        waits=[] if summary["races"] else waits(matched),
        line_costs=analysed.costs if analysed else (),
        explorer=Markup(as_script(groups)) if groups else None,
    )
    write_summary(folder, summary)
    write_text_whole(folder / "report.md", markdown(summary))
    write_text_whole(folder / "verdicts.tex", latex(summary))
    if clock:
        write_text_whole(folder / "simulated.tex", latex_orders(order_rows(clock), summary))
    return write_text_whole(folder / "report.html", html)


def _compare(summary: Mapping[str, Any], against: str | Path) -> Comparison:
    other = load_summary(against)
    return Comparison(str(against), other, *compared(summary, other), loops_differ(summary, other))


def render(summary: Mapping[str, Any], **parts: Any) -> str:
    """The page as text. Everything that comes from a run is escaped by the template engine."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "percent": percent,
        "size": size,
        "shape": shape_text,
        "arrow": arrow,
        "share": share,
        "seconds": seconds,
        "times": interval,
        "fault_sentence": fault_sentence,
    }
    return environment.get_template("report.html.j2").render(
        summary=summary,
        words=dict(sorted(WORDS.items())),
        headline=headline(summary),
        release_notes=notes_of(summary),
        ran=ran(summary),
        answers=answers(summary),
        named=WHO,
        more=[answer for answer in answers(summary) if answer.variant not in WHO],
        grids=grids(summary),
        rule=band_note(summary),
        pairs=pair_rows(summary),
        unfilled=unfilled(summary["wire"]),
        faults=faults(summary),
        seeds=seed_rows(summary),
        throughput=(rows := throughput_rows(summary)),
        throughput_head=shown(rows),
        hours=hours_sentences(summary),
        spent=spent_rows(summary),
        spent_note=NOTE,
        variants=explained(summary),
        patches=patches_of(summary),
        style=_own("style.css"),
        script=_own("report.js"),
        chart_style=_own(f"vendor/uPlot-{UPLOT}.min.css"),
        chart_script=_own(f"vendor/uPlot-{UPLOT}.iife.min.js"),
        **parts,
    )


def share(one: Mapping[str, Any]) -> str:
    """`2 of 3: 0.67 [0.09, 0.99]`, a proportion with its interval."""
    return f"{one['hits']} of {one['trials']}: {one['share']:.2g} [{one['low']:.2g}, {one['high']:.2g}]"


def _own(name: str) -> Markup:
    """A file of the templates folder, to be put into the page as it is."""
    return Markup((TEMPLATES / name).read_text())
