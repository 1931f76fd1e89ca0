"""The report as text for other places: Markdown for a pull request, a LaTeX table for a paper."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from analysis.judge.clock import clock_sentence
from analysis.judge.clock_tables import ORDERED
from analysis.judge.evidence import RANK, ran
from analysis.judge.race_matrix import fault_sentence
from analysis.judge.trust import percent
from analysis.page.answers import answers, headline
from analysis.page.explained import notes_of
from analysis.page.grids import Grid, band_note, grids
from analysis.page.hours import NOTE, spent_rows
from analysis.page.loop import loop_note
from analysis.page.speed import hours_sentences, shown, throughput_rows

Record = Mapping[str, Any]
LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "×": r"$\times$",
    "≈": r"$\approx$",
    "△": r"$\triangle$",
    "✕": r"$\times$",
    "–": "--",
    "−": "$-$",
}


def markdown(summary: Record) -> str:
    """report.md: the answer, the verdicts, the claims, and what was not run."""
    parts = [
        f"# {_md(summary['study'])}: is my configuration safe, and what does the fix cost?",
        f"**{_md(headline(summary))}**",
        *(_md(note) for note in notes_of(summary)),
    ]
    parts += _md_runs(summary) if ran(summary) else []
    parts += _md_throughput(summary) if summary["throughput"] else []
    parts += _md_slow(summary["stragglers"])
    parts += _md_hours(summary) if summary.get("hours") else []
    parts += _md_races(summary["races"]) if summary["races"] else []
    parts += _md_clock(summary["simulated"]) if summary["simulated"] else []

    if summary["claims"]:
        rows = (
            (c["statement"], c["reading"], f"**{c['verdict']}**", c["why"], c["evidence"] or "–")
            for c in summary["claims"]
        )
        parts += ["## The paper's claims", _md_table(("claim", "reading", "judged", "why", "evidence"), rows)]
    if summary.get("paper"):
        filled = ((p["what"], p["paper"], p["here"] or "–", p["same"]) for p in summary["paper"])
        parts += ["## The paper's numbers", _md_table(("what", "paper", "this study", ""), filled)]
    parts.append("## Not run")
    parts.append(
        "\n".join(f"- `{one['run_id']}`: {_md(one['reason'])}" for one in summary["not_run"])
        or "Nothing is missing."
    )
    versions = ", ".join(f"{name} {version}" for name, version in summary["versions"].items() if version)
    parts.append(f"Made {summary['generated_utc']} with {versions}. {loop_note(summary)}".rstrip())
    return "\n\n".join(parts) + "\n"


def _md_runs(summary: Record) -> list[str]:
    return [
        _md_table(
            ("variant", "trains as its baseline?", "costs", "evidence"),
            (
                (f"`{a.variant}`", f"**{a.sign}**: {a.safety}", a.cost, a.evidence or "–")
                for a in answers(summary)
            ),
        ),
        "## Verdicts",
        *(_md_grid(grid) for grid in grids(summary)),
        band_note(summary),
    ]


def _md_throughput(summary: Record) -> list[str]:
    """Rates of groups of seeds with their formula, and hours."""
    rows = throughput_rows(summary)
    names = [name for name in shown(rows) if name != "patches"]
    return [
        "## Throughput",
        _md(" ".join(hours_sentences(summary))),
        _md_table(names, ([row[name] for name in names] for row in rows)),
        _md(summary["throughput"]["convention"]),
    ]


def _md_slow(stragglers: Sequence[Record]) -> list[str]:
    """Ranks that the others wait for; nothing where none is slow by more than noise."""
    said = [f"- `{one['run_id']}`: {_md(who['says'])}" for one in stragglers for who in one["slow"]]
    return ["## Slow ranks", "\n".join(said)] if said else []


def _md_hours(summary: Record) -> list[str]:
    """Hours planned, used and lost."""
    rows = spent_rows(summary)
    return ["## Hours", _md_table(list(rows[0]), (row.values() for row in rows)), _md(NOTE)]


def _md_races(record: Record) -> list[str]:
    """Missing order by release and variant, and what it can do."""
    names = ("release", "variant", "overlap", "runs", "unordered accesses found in", "host waits", "events")
    return [
        "## Missing order",
        _md_table(names, (tuple(row.values()) for row in record["rows"])),
        "\n".join(f"- {_md(fault_sentence(fault))}" for fault in record["faults"])
        or "Schedules were not searched.",
    ]


def _md_clock(record: Record) -> list[str]:
    """Simulated time: how far to trust it first, then its results."""
    held = record["validation"]
    costs = (
        (f"`{name}`", percent(low, 1), percent(high, 1))
        for name, (low, high) in record["order_costs"].items()
    )
    parts = [
        "## Simulated time",
        f"{_md(clock_sentence(record))} Every number here is `simulated-time`.",
        "### How far to trust it",
        "\n".join(f"- {_md(one)}" for one in held["sentences"]),
        "Not validated:\n\n" + "\n".join(f"- {_md(one)}" for one in held["not_validated"]),
    ]
    if record["order_costs"]:
        parts += [
            f"### What an ordering adds to a step of unordered hpZ ({_md(held['caveat'])})",
            _md_table(("ordering", "least", "most"), costs),
        ]
    if counts := record["windows"]:
        rows = (
            (name, f"{strikes} of {of}", f"{may} of {of}")
            for group in ("by_code", "by_network")
            for name, (strikes, may, of) in counts[group].items()
        )
        parts += [
            "### Settings at full size in which a gather overtakes its copy",
            _md_table(("", "strikes", "may strike"), rows),
        ]
    return parts


def latex_orders(rows: Iterable[Record], summary: Record) -> str:
    """simulated.tex: a booktabs table of what each ordering costs, one row a setting and network."""
    record = summary["simulated"]
    head = ("setting", "network", "ZeRO-3 (s)", "hpZ (s)", *ORDERED, "speed over ZeRO-3", "by bytes")
    body = [
        " & ".join(
            _tex(cell)
            for cell in (
                row["case"],
                row["network"],
                *(_three(row[name]) for name in ("zero3", "unordered")),
                *(_ends(row, name, lambda value: percent(value, 1)) for name in ORDERED),
                _ends(row, "speedup", _three),
                _three(row["bytes_bound"]),
            )
        )
        + r" \\"
        for row in rows
    ]
    return "\n".join(
        [
            f"% {_comment(summary['study'])}, {summary['generated_utc']}; evidence: {record['evidence']}",
            f"% validation: {_comment(record['validation']['caveat'])}",
            r"\begin{tabular}{ll" + "r" * (len(head) - 2) + "}",
            r"\toprule",
            " & ".join(map(_tex, head)) + r" \\",
            r"\midrule",
            *body,
            r"\bottomrule",
            r"\end{tabular}",
            "",
        ]
    )


def _ends(row: Record, name: str, text: Callable[[float], str]) -> str:
    """A value with the ends of its range, where it has one."""
    if row[name] is None:
        return "--"
    low, high = text(row[f"{name}_low"]), text(row[f"{name}_high"])
    return text(row[name]) + (f" ({low} to {high})" if low != high else "")


def _three(value: float | None) -> str:
    return "--" if value is None else f"{value:.3g}"


def _md_grid(grid: Grid) -> str:
    rows = ((label, *(f"{c.sign} {c.text}" if c else "" for c in cells)) for label, cells in grid.rows)
    table = _md_table(("variant", *grid.columns), rows)
    return f"### {_md(grid.title)}\n\n{_md(grid.note)} (evidence: {grid.evidence})\n\n{table}"


def _md_table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    names = [*head]
    lines = [names, ["---"] * len(names), *rows]
    return "\n".join(f"| {' | '.join(_md(cell) for cell in line)} |" for line in lines)


def _md(text: str) -> str:
    """Text in which nothing becomes markup of HTML or of a table."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|").replace("\n", " ")


def latex(summary: Record) -> str:
    """verdicts.tex: a booktabs table, one row a variant and policy, one column a model; needs booktabs and amssymb."""
    pairs = summary["pairs"]
    models = list(dict.fromkeys(pair["model"] for pair in pairs))
    rows: dict[tuple[str, str], dict[str, Record]] = {}
    for pair in pairs:
        cells = rows.setdefault((pair["variant"], pair["schedule"]), {})
        if pair["model"] not in cells or RANK[pair["verdict"]] > RANK[cells[pair["model"]]["verdict"]]:
            cells[pair["model"]] = pair
    body = [
        " & ".join([_tex(variant), _tex(policy), *(_tex_cell(cells.get(model)) for model in models)]) + r" \\"
        for (variant, policy), cells in rows.items()
    ]
    levels = ", ".join(sorted({pair["evidence"] for pair in pairs}))
    return "\n".join(
        [
            f"% {_comment(summary['study'])}, {summary['generated_utc']}; evidence: {levels}",
            r"\begin{tabular}{ll" + "l" * len(models) + "}",
            r"\toprule",
            " & ".join(["variant", "order", *map(_tex, models)]) + r" \\",
            r"\midrule",
            *body,
            r"\bottomrule",
            r"\end{tabular}",
            "",
        ]
    )


def _tex_cell(pair: Record | None) -> str:
    if pair is None:
        return ""
    if pair["verdict"] is None:
        return "--"
    bad = "" if pair["first_bad_step"] is None else f" (step {pair['first_bad_step']})"
    missed = f" ±{pair['smallest_drift']:.2g}" if pair["verdict"] == "equivalent" else ""
    return _tex(pair["verdict"] + missed + bad)


def _tex(text: str) -> str:
    return re.sub("|".join(map(re.escape, LATEX)), lambda found: LATEX[found.group()], text)


def _comment(text: str) -> str:
    return " ".join(text.split())
