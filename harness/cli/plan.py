"""What `hpz plan` shows: the runs of a study, and of GPU runs what they would take in hours and memory."""

from __future__ import annotations

from typing import Any

from rich.table import Table

from harness.budget import estimate_memory, memory_sentence, misfits
from harness.cli.hours import hours_text
from harness.hardware import find_card
from harness.record.hours import planned_hours
from harness.study import Run, Study

Row = dict[str, Any]


def plan_rows(study: Study) -> list[Row]:
    """One row a run; hours and memory of GPU runs alone, hours only where the study names its card."""
    baselines = {baseline.run_id for _, baseline in study.pairs}
    return [_row(run, study) | {"baseline": run.run_id in baselines} for run in study.runs]


def _row(run: Run, study: Study) -> Row:
    row: Row = {
        "run_id": run.run_id,
        "variant": run.variant,
        "device": run.device,
        "policy": run.policy,
        "ranks": run.shape.world_size,
        "hpz": run.shape.hpz,
        "steps": run.training.steps,
        "tokens": run.training.steps * run.tokens_per_step,
        "evidence": run.evidence,
        "gpu_hours": None,
        "memory": None,
        "fits": None,
    }
    if run.device != "cuda":
        return row
    memory = estimate_memory(run)
    row["memory"] = {
        "peak": round(memory.peak),
        "host": round(memory.host),
        "parts": {name: round(value) for name, value in memory.parts().items()},
    }
    if study.gpu is not None:
        card = find_card(study.gpu)
        row["fits"] = memory.peak <= card.memory_bytes
        row["gpu_hours"] = planned_hours(run, study)
    return row


def plan_table(study: Study, rows: list[Row]) -> Table:
    """The rows for the terminal; a run that does not fit its card is marked."""
    table = Table(title=f"{study.name}: {len(rows)} runs, {len(study.pairs)} pairs", box=None)
    columns = ["run", "ranks", "steps", "tokens", "evidence"]
    columns += ["memory a rank"] if any(row["memory"] for row in rows) else []
    columns += ["GPU-hours"] if any(row["gpu_hours"] is not None for row in rows) else []
    for column in columns:
        table.add_column(column, no_wrap=column == "run", justify="left" if column == "run" else "right")
    for row in rows:
        cells = {
            "run": f"{row['run_id']}{' (baseline)' if row['baseline'] else ''}",
            **{name: str(row[name]) for name in ("ranks", "steps", "tokens", "evidence")},
            "memory a rank": _memory(row),
            "GPU-hours": hours_text(row["gpu_hours"]),
        }
        table.add_row(*(cells[column] for column in columns))
    return table


def _memory(row: Row) -> str:
    if row["memory"] is None:
        return "–"
    return f"{row['memory']['peak'] / 1e9:.1f} GB" + (" ✕" if row["fits"] is False else "")


def budget_notes(study: Study, rows: list[Row]) -> list[str]:
    """How hours and memory were come by, their sum, and what does not fit with what would."""
    if not any(row["memory"] for row in rows):
        return []
    notes = [
        "Memory a rank is an estimate by ZeRO's formula (parameters, gradients, optimizer states, secondary shards, "
        "gathered parameters, buckets, activations, logits, and 1 GB assumed for CUDA and NCCL); --json has the parts."
    ]
    if study.gpu is None:
        return [*notes, "Name the card (gpu: a100-sxm-80gb) for GPU-hours, and for what does not fit."]
    card, mfu = find_card(study.gpu), study.plan.mfu
    total = sum(row["gpu_hours"] or 0 for row in rows)
    peaks = {card.peak_flops(run.training.dtype) / 1e12 for run in study.runs if run.device == "cuda"}
    peak = " or ".join(f"{one:g}" for one in sorted(peaks))
    notes.append(
        f"{hours_text(total)} GPU-hours in all: model FLOPs (PaLM's formula) at an assumed MFU of {mfu:.0%} (plan.mfu) "
        f"of {peak} TFLOP/s ({study.gpu}); start-up, validation and checkpoints are not in it."
    )
    if study.virtual_nodes:
        notes.append(
            "Its nodes are virtual: where several ranks share a card, each of them takes its memory."
        )
    return notes + [
        f"✕ {memory_sentence(run, memory, study.gpu)}" for run, memory in misfits(study.runs, study.gpu)
    ]
