"""Two studies at different evidence levels beside each other: what each says of a variant, and where they differ."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from rich.table import Table

from analysis.draw.settings import shape_text
from analysis.judge.evidence import weaker
from analysis.page.compare import compare_summaries
from harness.system.errors import HarnessError

Record = Mapping[str, Any]
KEY = ("model", "variant", "gradient_accumulation")


def compared(ours: Record, theirs: Record) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """What changed between pairs of the same device and order, and what differs between levels.

    Raises HarnessError where the two studies share neither.
    """
    levels = beside(ours, theirs)
    try:
        return compare_summaries(ours, theirs), levels
    except HarnessError:
        if not levels:
            raise
        return [], levels


def beside(ours: Record, theirs: Record) -> list[dict[str, Any]]:
    """One row a model, variant, shape and accumulation that both judged, at different levels; the differing first.

    `agree` says whether both saw the variant fail, or both saw it stand. Empty where the levels are the same.
    """
    mine, others = _cells(ours["pairs"]), _cells(theirs["pairs"])
    rows = []
    for key in mine.keys() & others.keys():
        one, other = _said(mine[key]), _said(others[key])
        if one["evidence"] != other["evidence"]:
            row = dict(zip((*KEY, "shape"), key, strict=True))
            rows.append(
                {**row, "ours": one, "theirs": other, "agree": bool(one["struck"]) == bool(other["struck"])}
            )
    return sorted(rows, key=lambda row: (row["agree"], row["model"], row["variant"], row["shape"]))


def _cells(pairs: Iterable[Record]) -> dict[tuple[Any, ...], list[Record]]:
    cells: dict[tuple[Any, ...], list[Record]] = {}
    for pair in pairs:
        if pair["verdict"]:
            cells.setdefault((*(pair[name] for name in KEY), shape_text(pair["shape"])), []).append(pair)
    return cells


def _said(pairs: list[Record]) -> dict[str, Any]:
    """What the pairs of one cell say: level, runs struck, and under which schedules."""
    schedules = dict.fromkeys(_schedule(pair) for pair in pairs)
    under = []
    for schedule in schedules:
        mine = [pair for pair in pairs if _schedule(pair) == schedule]
        struck = sum(pair["verdict"] != "exact" for pair in mine)
        under.append(f"{schedule}: {struck} of {len(mine)}")
    return {
        "evidence": weaker(*(pair["evidence"] for pair in pairs)),
        "struck": sum(pair["verdict"] != "exact" for pair in pairs),
        "runs": len(pairs),
        "under": "; ".join(under),
    }


def _schedule(pair: Record) -> str:
    return str(pair.get("schedule", pair["policy"]))


def levels_table(rows: list[dict[str, Any]], ours: str, theirs: str) -> Table:
    """The rows for the terminal: runs struck, by schedule."""
    differ = sum(not row["agree"] for row in rows)
    table = Table(
        title=f"{ours} beside {theirs}: {differ} of {len(rows)} cells differ", title_justify="left", box=None
    )
    for name in ("model", "variant", "shape", "struck here", "struck there", ""):
        table.add_column(name)
    for row in rows:
        table.add_row(
            row["model"],
            row["variant"],
            row["shape"],
            f"{row['ours']['under']} ({row['ours']['evidence']})",
            f"{row['theirs']['under']} ({row['theirs']['evidence']})",
            "agree" if row["agree"] else "differ",
        )
    return table
