"""The judged pairs of a summary as a table for the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table

from analysis.draw.settings import shape_text
from analysis.page.explained import notes_of

VARYING = {"release": "release", "device": "device", "link": "link", "gradient_accumulation": "accum."}

NUMBERS = {
    "seed": "seed",
    "first_bad_step": "first bad step",
    "secondary_gathers_per_step": "gathers",
    "host_syncs_per_step": "host syncs",
}


def verdict_table(summary: Mapping[str, Any]) -> Table:
    """The judged pairs of a summary as a table for the terminal; settings that all pairs share are left out."""
    pairs = [pair for pair in summary["pairs"] if pair["verdict"]]
    levels = ", ".join(dict.fromkeys(pair["evidence"] for pair in pairs))
    table = Table(title=f"{summary['study']}: verdicts (evidence: {levels or 'none'})", title_justify="left")
    varying = {key: name for key, name in VARYING.items() if len({pair[key] for pair in pairs}) > 1}
    axes = list(dict.fromkeys(name for pair in pairs for name in pair["axes"]))
    named = [axis.rsplit(".", 1)[-1] for axis in axes]
    for name in ("model", "variant", "shape", *varying.values(), *named, "policy", "verdict"):
        table.add_column(name)
    rates = _rates(summary)
    for name in (*NUMBERS.values(), *(("tokens/s a rank",) if rates else ())):
        table.add_column(name, justify="right")
    for pair in pairs:
        table.add_row(
            pair["model"],
            pair["variant"],
            shape_text(pair["shape"]),
            *(str(pair[key]) for key in varying),
            *(str(pair["axes"].get(axis)) for axis in axes),
            pair["schedule"],
            _styled(pair),
            *(_text(pair[key]) for key in NUMBERS),
            *((_text(rates.get(pair["run_id"])),) if rates else ()),
        )
    notes = notes_of(summary)
    if summary["not_run"]:
        notes.append(
            f"{len(summary['not_run'])} runs not run or unfinished; the report lists them with the reason"
        )
    table.caption = "\n".join(notes) or None
    return table


def _rates(summary: Mapping[str, Any]) -> dict[str, float]:
    """Tokens/s of a rank by run, where they were measured."""
    runs = (summary["throughput"] or {"runs": []})["runs"]
    return {run["run_id"]: run["tokens_per_second_per_rank"]["estimate"] for run in runs}


def _styled(pair: Mapping[str, Any]) -> str:
    """The verdict; of an equivalence with the drift that would have shown, in nats per token."""
    verdict = pair["verdict"]
    style = {"exact": "green", "equivalent": "green", "drifted": "yellow", "diverged": "red"}[verdict]
    missed = f" ±{pair['smallest_drift']:.2g}" if verdict == "equivalent" else ""
    return f"[{style}]{verdict}{missed}[/]"


def _text(value: float | None) -> str:
    return "–" if value is None else f"{round(value, 1):g}"
