"""What a report found, as dashboards hold it: a few values for each run, and tables of plain columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from analysis.draw.settings import settings, shape_text
from analysis.page.answers import answers, headline

Record = Mapping[str, Any]
NOT_JUDGED = "not judged"


@dataclass(frozen=True)
class Table:
    """Rows by column; a value is a number, a text or None."""

    name: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]


def found_of_runs(summary: Record) -> dict[str, dict[str, Any]]:
    """By run id: verdict, first bad step, ratio of step times and throughput, with intervals where there are some."""
    found: dict[str, dict[str, Any]] = {}
    for pair in summary["pairs"]:
        found.setdefault(pair["baseline_run_id"], {"verdict": "baseline"})
    for pair in summary["pairs"]:
        found[pair["run_id"]] = {
            "verdict": pair["verdict"] or NOT_JUDGED,
            "verdict_reason": pair["reason"],
            "first_bad_step": pair["first_bad_step"],
            "max_abs_loss_difference": pair["max_abs_loss_difference"],
            **_ends("step_time_ratio", pair["step_seconds_ratio"]),
            "baseline_run": pair["baseline_run_id"],
        }
    for run in (summary["throughput"] or {"runs": []})["runs"]:
        found.setdefault(run["run_id"], {}).update(
            _ends("steady_tokens_per_second_per_rank", run["tokens_per_second_per_rank"]), mfu=run["mfu"]
        )
    return {run_id: _present(values) for run_id, values in found.items()}


def tables_of(summary: Record) -> list[Table]:
    """Pairs with their verdicts, what follows for each variant, throughput, claims, and what did not run."""
    pairs = [
        {
            "run": pair["run_id"],
            "model": pair["model"],
            "variant": pair["variant"],
            "shape": shape_text(pair["shape"]),
            "policy": pair["schedule"],
            "settings": setting,
            "seed": pair["seed"],
            "verdict": pair["verdict"] or NOT_JUDGED,
            "reason": pair["reason"],
            "first_bad_step": pair["first_bad_step"],
            "max_abs_loss_difference": pair["max_abs_loss_difference"],
            "host_waits_per_step": pair["host_syncs_per_step"],
            "secondary_gathers_per_step": pair["secondary_gathers_per_step"],
            "bytes_to_other_nodes_per_step": pair["bytes_inter_per_step"],
            **_ends("step_time_ratio", pair["step_seconds_ratio"]),
            "evidence": pair["evidence"],
        }
        for pair, setting in zip(summary["pairs"], settings(summary["pairs"]), strict=True)
    ]
    rates = [
        {
            "model": group["model"],
            "variant": group["variant"],
            "shape": shape_text(group["shape"]),
            "seeds": len(group["seeds"]),
            **_ends("tokens_per_second_per_rank", group["tokens_per_second_per_rank"]),
            "model_tflops_per_rank": group["model_tflops_per_rank"],
            "mfu": group["mfu"],
            "step_seconds": group["step_seconds"],
            "evidence": group["evidence"],
        }
        for group in (summary["throughput"] or {"groups": []})["groups"]
    ]
    variants = [
        {"variant": one.variant, "is": one.who, "safe": one.sign, "found": one.safety, "costs": one.cost}
        for one in answers(summary)
    ]
    names = ("id", "reading", "verdict", "why", "evidence", "statement", "source")
    claims = [{name: claim[name] for name in names} for claim in summary["claims"]]
    made = {
        "variants": variants,
        "verdicts": pairs,
        "throughput": rates,
        "claims": claims,
        "not_run": summary["not_run"],
    }
    return [_table(name, rows) for name, rows in made.items() if rows]


def words_of(summary: Record) -> str:
    """The answer as Markdown without tables: the headline, a line for each variant, and one for each claim judged."""
    lines = [f"# {summary['study']}", summary["question"], f"**{headline(summary)}**"]
    lines += [
        f"- `{one.variant}` ({one.who}): **{one.sign}**. {one.safety} Costs: {one.cost}. *{one.evidence}*"
        for one in answers(summary)
    ]
    judged = [claim for claim in summary["claims"] if claim["verdict"] != "not tested"]
    lines += [
        "## Claims",
        *(f"- {claim['reading']} **{claim['verdict']}**: {claim['why']}" for claim in judged),
    ]
    return "\n\n".join(filter(None, lines if judged else lines[:-1])) + "\n"


def counts_of(summary: Record) -> dict[str, int]:
    """How many pairs have each verdict, how many claims each judgement, and how many runs are missing."""
    verdicts = [pair["verdict"] or NOT_JUDGED for pair in summary["pairs"]]
    claims = [claim["verdict"] for claim in summary["claims"]]
    return {
        **{f"pairs.{name.replace(' ', '_')}": verdicts.count(name) for name in sorted(set(verdicts))},
        **{f"claims.{name.replace(' ', '_')}": claims.count(name) for name in sorted(set(claims))},
        "runs_not_run": len(summary["not_run"]),
    }


def _table(name: str, rows: Sequence[Record]) -> Table:
    columns = tuple(rows[0])
    return Table(name, columns, tuple(tuple(row[column] for column in columns) for row in rows))


def _ends(name: str, ratio: Record | None) -> dict[str, float | None]:
    """An estimate and the ends of its interval; a median is an estimate."""
    one: Record = ratio or {}
    return {
        name: one.get("median", one.get("estimate")),
        f"{name}_low": one.get("low"),
        f"{name}_high": one.get("high"),
    }


def _present(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}
