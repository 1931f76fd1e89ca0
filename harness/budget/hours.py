"""GPU-hours: planned from FLOPs, a card's peak and a stated utilisation; spent from the seconds of recorded steps."""

from __future__ import annotations

from collections.abc import Iterable

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
