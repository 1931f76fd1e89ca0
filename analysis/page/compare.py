"""Two summaries beside each other: what changed between two studies, or between two commits of one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table

from analysis.draw.settings import shape_text
from analysis.judge.axes import axes_text
from analysis.judge.evidence import RANK
from analysis.page.tables import number
from harness.system.errors import HarnessError

Record = Mapping[str, Any]
KEY = ("model", "variant", "device", "policy", "poison", "seed", "gradient_accumulation", "link")


def compare_summaries(ours: Record, theirs: Record) -> list[dict[str, Any]]:
    """One row for each pair that both hold, the changed ones first. Raises HarnessError when they share none.

    `change` is better, worse, other (the verdict is the same, something counted is not) or same.
    """
    old = {_key(pair): pair for pair in theirs["pairs"]}
    rows = [_row(pair, old[_key(pair)]) for pair in ours["pairs"] if _key(pair) in old]
    if not rows:
        raise HarnessError(
            f"{ours['study']} and {theirs['study']} share no pair of the same model, variant, shape, policy and seed; "
            "compare results of studies that overlap"
        )
    order = {"worse": 0, "better": 1, "other": 2, "same": 3}
    return sorted(rows, key=lambda row: order[row["change"]])


def _key(pair: Record) -> tuple[Any, ...]:
    later = (
        pair.get("schedule", pair["policy"]),
        pair.get("throughput_timer", True),
        axes_text(pair.get("axes", {})),
    )  # not in older summaries
    return (*(pair[name] for name in KEY), *later, shape_text(pair["shape"]))


def _row(ours: Record, theirs: Record) -> dict[str, Any]:
    row = {name: ours[name] for name in KEY} | {"shape": shape_text(ours["shape"])}
    for name in (
        "verdict",
        "first_bad_step",
        "host_syncs_per_step",
        "secondary_gathers_per_step",
        "bytes_inter_per_step",
    ):
        row |= {name: ours[name], f"{name}_before": theirs[name]}
    row["same_weights"] = None
    if ours["shards_sha256"] and theirs["shards_sha256"]:
        row["same_weights"] = ours["shards_sha256"] == theirs["shards_sha256"]
    row |= {"run_id": ours["run_id"], "run_id_before": theirs["run_id"], "change": _change(ours, theirs, row)}
    return row


def _change(ours: Record, theirs: Record, row: Record) -> str:
    now, before = RANK[ours["verdict"]], RANK[theirs["verdict"]]
    if now != before and -1 not in (now, before):
        return "worse" if now > before else "better"
    counted = (
        "verdict",
        "first_bad_step",
        "host_syncs_per_step",
        "secondary_gathers_per_step",
        "bytes_inter_per_step",
    )
    differs = any(row[name] != row[f"{name}_before"] for name in counted) or row["same_weights"] is False
    return "other" if differs else "same"


def comparison_table(rows: list[dict[str, Any]], ours: str, theirs: str) -> Table:
    """The comparison for the terminal; pairs without any change are counted only."""
    changed = [row for row in rows if row["change"] != "same"]
    table = Table(
        title=f"{ours} against {theirs}: {len(changed)} of {len(rows)} pairs changed", title_justify="left"
    )
    for name in (
        "change",
        "model",
        "variant",
        "shape",
        "policy",
        "seed",
        "verdict",
        "first bad step",
        "host waits / step",
        "weights",
    ):
        table.add_column(name)
    for row in changed:
        table.add_row(
            row["change"],
            row["model"],
            row["variant"],
            row["shape"],
            row["policy"],
            str(row["seed"]),
            arrow(row, "verdict"),
            arrow(row, "first_bad_step"),
            arrow(row, "host_syncs_per_step"),
            {True: "same", False: "differ", None: "–"}[row["same_weights"]],
        )
    return table


def arrow(row: Record, name: str) -> str:
    """`before → now`, or the value alone where it is the same."""
    before, now = _text(row[f"{name}_before"]), _text(row[name])
    return now if before == now else f"{before} → {now}"


def _text(value: Any) -> str:
    return value if isinstance(value, str) else number(value)
