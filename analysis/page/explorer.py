"""Data of the page's interactive curves: thinned losses and gradient norms of every run, grouped by model and shape."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from analysis.draw.style import line_of
from analysis.judge.axes import axes_text, further_axes
from analysis.judge.band import Floats
from analysis.judge.pairs import Matched, Recorded, few_seeds

TOTAL_POINTS = 150_000  # over all runs and both series: what a phone still loads at once
LEAST_POINTS = 40  # of one run


def explorer_data(matched: Matched, summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Groups of runs that share an axis: steps, and for each run what the page needs to draw and name it."""
    verdicts = {pair["run_id"]: pair for pair in summary["pairs"]}
    groups: dict[str, list[Recorded]] = {}
    for pair in few_seeds(matched.pairs):
        axes = axes_text(further_axes(matched.study, pair.run))
        for recorded in (pair.recorded_baseline, pair.recorded):
            if recorded is not None and len(recorded.columns["step"]):
                members = groups.setdefault(_group_of(pair.run.model, pair.run, axes), [])
                if all(recorded is not member for member in members):
                    members.append(recorded)
    count = sum(map(len, groups.values()))
    points = max(LEAST_POINTS, TOTAL_POINTS // (2 * count)) if count else LEAST_POINTS
    return [_group(name, members, verdicts, points) for name, members in groups.items()]


def as_script(groups: list[dict[str, Any]]) -> str:
    """JSON that can stand inside a script element whatever a run is called."""
    return json.dumps(groups, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


def _group_of(model: str, run: Any, axes: str) -> str:
    accumulation = run.training.gradient_accumulation
    ranks = f"{model}, {run.shape.nodes} × {run.shape.ranks_per_node} ranks"
    ranks += f", accumulation {accumulation}" if accumulation > 1 else ""
    ranks += f", link {run.link}" if run.link else ""
    return ", ".join(filter(None, (ranks, axes)))


def _group(name: str, members: list[Recorded], verdicts: Mapping[str, Any], points: int) -> dict[str, Any]:
    steps = max((member.columns["step"] for member in members), key=len)
    keep = np.unique(np.linspace(0, len(steps) - 1, min(points, len(steps))).round().astype(int))
    return {
        "name": name,
        "steps": [int(step) for step in steps[keep]],
        # What lies at the bottom is drawn first: the baseline's variant.
        "runs": [
            _run(member, verdicts.get(member.run_id), keep)
            for member in sorted(members, key=lambda member: line_of(member.run.variant).order >= 2)
        ],
    }


def _run(recorded: Recorded, pair: Any, keep: Any) -> dict[str, Any]:
    run, line = recorded.run, line_of(recorded.run.variant)
    dash = [] if isinstance(line.dash, str) else [2.0 * part for part in line.dash[1]]
    return {
        "id": recorded.run_id,
        "variant": run.variant,
        "policy": run.schedule,
        "seed": run.seed,
        "verdict": (pair["verdict"] or "not judged") if pair else "baseline",
        "bad": pair["first_bad_step"] if pair else None,
        "colour": line.colour,
        "dash": dash,
        "loss": _values(recorded.columns["loss"], keep),
        "grad_norm": _values(recorded.columns["grad_norm"], keep),
    }


def _values(column: Floats, keep: Any) -> list[float | None]:
    """Seven digits are enough to look at; what is not finite, or not recorded, is null."""
    values = column[keep[keep < len(column)]]
    shown = [float(f"{value:.7g}") if np.isfinite(value) else None for value in values]
    return shown + [None] * (len(keep) - len(shown))
