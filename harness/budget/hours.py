"""GPU-hours: planned from FLOPs, a card's peak and a stated utilisation; spent from the seconds of turns and steps."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from harness.budget.flops import step_flops
from harness.hardware import Card
from harness.study import Run


def planned_gpu_hours(run: Run, card: Card, mfu: float) -> float:
    """Hours of all its GPUs together at model FLOPs utilisation `mfu`; start-up and validation are not in it."""
    flops = run.training.steps * step_flops(run)
    return flops / (card.peak_flops(run.training.dtype) * mfu) / 3600


def rank_hours(step_seconds: Iterable[float], ranks: int) -> float:
    """Hours that all ranks together spent in recorded steps; GPU-hours where each rank has its own GPU."""
    return sum(step_seconds) * ranks / 3600


def unit_of(run: Run) -> str:
    """What an hour of a rank is: of a GPU where each rank has its own, else of a rank."""
    return "GPU-hours" if run.device == "cuda" and not run.virtual_nodes else "rank-hours"


@dataclass(frozen=True)
class Spent:
    """Hours of all ranks of a run; the two losses are part of what is `used`, and never both above 0."""

    used: float
    restarts: float
    failed: float


def spent_hours(turns: Iterable[tuple[float, float | None]], ranks: int, failed: bool) -> Spent:
    """From each turn's seconds and, where it did not end as meant, the seconds of its steps that were kept (else None).

    Lost to restarts is what such a turn took beyond those steps: its start and the steps that are made again, for the
    turn that follows has a start of its own. Of a run that `failed` all is lost.
    """
    times = list(turns)
    used = sum(seconds for seconds, _ in times) * ranks / 3600
    lost = sum(max(seconds - kept, 0.0) for seconds, kept in times if kept is not None) * ranks / 3600
    return Spent(used, 0.0 if failed else lost, used if failed else 0.0)
