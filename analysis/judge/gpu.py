"""Real CUDA streams: how often the race strikes as the stall grows, and what an order costs in time and host waits.

A run is struck where a loss or gradient norm differs from its baseline's in any bit; what the sound variants show under
the same stall is the control. Empty for studies without GPU runs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from scipy import stats

from analysis.judge.axes import axes_text, further_axes
from analysis.judge.convergence import bootstrap_median
from analysis.judge.pairs import Matched, Pair
from analysis.judge.throughput import block_ratios
from harness.study import Rule

Record = dict[str, Any]
CELL = ("model", "variant", "gradient_accumulation", "throughput_timer", "stall_us", "evidence")


def gpu_record(matched: Matched, pairs: Iterable[Mapping[str, Any]]) -> Record | None:
    """`rates` and `costs` of a summary; None where no pair of the study ran on a GPU."""
    rule = matched.study.rule
    judged = [pair for pair in pairs if pair["device"] == "cuda" and pair["verdict"]]
    if not judged:
        return None
    costs: dict[tuple[Any, ...], list[Pair]] = {}
    for pair in matched.pairs:
        if pair.run.device == "cuda" and not pair.reason and pair.run.stall_us == pair.baseline.stall_us == 0:
            run = pair.run
            if run.training == pair.baseline.training:
                axes = axes_text(further_axes(matched.study, run))
                key = (run.model, run.variant, run.training.gradient_accumulation, axes)
                costs.setdefault(key, []).append(pair)
    return {
        "rates": [_rate(cell, rule) for cell in _cells(judged)],
        "costs": [
            _cost(group, rule) | {"axes": further_axes(matched.study, group[0].run)}
            for group in costs.values()
        ],
    }


def _cells(pairs: list[Mapping[str, Any]]) -> list[list[Mapping[str, Any]]]:
    """Pairs that differ in the seed alone, by ascending stall."""
    cells: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for pair in sorted(pairs, key=lambda pair: pair["stall_us"]):
        key = (*(pair[name] for name in CELL), axes_text(pair["axes"]))
        cells.setdefault(key, []).append(pair)
    return list(cells.values())


def _rate(pairs: list[Mapping[str, Any]], rule: Rule) -> Record:
    """Struck runs of all runs, and strikes of the steps that could still be the first, both with exact intervals."""
    struck = [pair for pair in pairs if pair["verdict"] != "exact"]
    exposed = sum(
        pair["steps"] if pair["first_differing_step"] is None else pair["first_differing_step"] + 1
        for pair in pairs
    )
    return {
        **{name: pairs[0][name] for name in (*CELL, "axes")},
        "runs": proportion(len(struck), len(pairs), rule.confidence),
        "steps": proportion(len(struck), exposed, rule.confidence),
        "run_ids": [pair["run_id"] for pair in pairs],
    }


def proportion(hits: int, trials: int, confidence: float) -> Record:
    """Share of hits with its exact binomial interval (Clopper and Pearson 1934)."""
    interval = stats.binomtest(hits, trials).proportion_ci(confidence, method="exact")
    return {
        "hits": hits,
        "trials": trials,
        "share": hits / trials,
        "low": float(interval.low),
        "high": float(interval.high),
    }


def _cost(pairs: list[Pair], rule: Rule) -> Record:
    """Times over the baseline's, one ratio a seed, and host waits a step; of runs left at their own pace."""
    run = pairs[0].run
    return {
        "model": run.model,
        "variant": run.variant,
        "gradient_accumulation": run.training.gradient_accumulation,
        "evidence": run.evidence,
        "step_seconds_ratio": _ratio(pairs, "step_seconds", rule),
        "device_seconds_ratio": _ratio(pairs, "device_seconds", rule),
        **{
            prefix + name: _mean(pairs, name, prefix, rule)
            for name in ("host_blocked_seconds", "host_syncs", "step_seconds", "device_seconds")
            for prefix in ("", "baseline_")
        },
        "run_ids": [pair.run_id for pair in pairs],
    }


def _ratio(pairs: list[Pair], column: str, rule: Rule) -> Record | None:
    """Median over the seeds, which are independent; the steps of one run are not, and count as its median ratio."""
    blocks = [
        block_ratios(pair.recorded.columns[column], pair.recorded_baseline.columns[column], rule)
        for pair in pairs
        if pair.recorded and pair.recorded_baseline
    ]
    seeds = np.array([np.median(each) for each in blocks if each.size])
    if not seeds.size:
        return None
    found = bootstrap_median(seeds, rule.confidence)
    return {"median": found.estimate, "low": found.low, "high": found.high, "n": found.n}


def _mean(pairs: list[Pair], column: str, prefix: str, rule: Rule) -> float | None:
    sides = [pair.recorded_baseline if prefix else pair.recorded for pair in pairs]
    values = [side.steady(column, rule.warmup_steps_dropped).astype(float) for side in sides if side]
    every = np.concatenate(values) if values else np.empty(0)
    every = every[np.isfinite(every)]
    return float(every.mean()) if every.size else None
