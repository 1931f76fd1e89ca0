"""Step times of a pair: the ratio run / baseline with its interval, and which steps stand out.

Steps are paired by index and put into MAX_BLOCKS blocks, because neighbouring step times are not independent; the first
`rule.warmup_steps_dropped` steps are left out. A run of fewer steps has one step a block: its interval then takes
neighbouring steps for independent and may be too narrow.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

from analysis.judge.convergence import Floats, bootstrap_median
from harness.study import Rule

MAX_BLOCKS = 30
OUTLIER_MADS = 5.0  # a ratio this many scaled median deviations from the median is shown as an outlier


def steady_blocks(values: Floats, rule: Rule) -> list[Floats]:
    """The values after the warm-up in at most MAX_BLOCKS blocks; none where nothing is left or a value is no time."""
    kept = values[rule.warmup_steps_dropped :]
    if not len(kept) or not (np.isfinite(kept).all() and (kept > 0).all()):
        return []
    return np.array_split(kept, min(MAX_BLOCKS, len(kept)))


def block_ratios(run: Floats, baseline: Floats, rule: Rule) -> Floats:
    """Ratios of block medians, shape (blocks,), from step seconds of shape (steps,); empty when nothing is left."""
    steps = min(len(run), len(baseline))
    keep = slice(rule.warmup_steps_dropped, steps)
    run, baseline = run[keep], baseline[keep]
    if not len(run) or not (np.isfinite(run).all() and np.isfinite(baseline).all() and (baseline > 0).all()):
        return np.empty(0)
    blocks = min(MAX_BLOCKS, len(run))
    return np.array(
        [
            np.median(ours) / np.median(theirs)
            for ours, theirs in zip(
                np.array_split(run, blocks), np.array_split(baseline, blocks), strict=True
            )
        ]
    )


@dataclass(frozen=True)
class Ratio:
    """Step time over the baseline's: median over `n` blocks, its interval, and which blocks stand out."""

    median: float
    low: float | None
    high: float | None
    n: int
    spread: float  # interquartile range of the block ratios
    outliers: int
    outlier_ratios: list[float]


def step_seconds_ratio(run: Floats, baseline: Floats, rule: Rule) -> Ratio | None:
    """Median block ratio of step seconds with its bootstrap interval; None when no step is left after warm-up."""
    ratios = block_ratios(run, baseline, rule)
    if not ratios.size:
        return None
    found, odd = bootstrap_median(ratios, rule.confidence), ratios[outliers(ratios)]
    return Ratio(
        found.estimate,
        found.low,
        found.high,
        found.n,
        float(stats.iqr(ratios)),
        len(odd),
        odd.tolist(),
    )


def outliers(ratios: Floats) -> npt.NDArray[np.bool_]:
    """Which ratios stand out (shape of `ratios`); they are shown, never dropped."""
    distance = np.abs(ratios - np.median(ratios)) if ratios.size else ratios
    scale = 1.4826 * np.median(distance) if ratios.size else 0.0
    return distance > OUTLIER_MADS * scale if scale > 0 else np.zeros(ratios.shape, bool)
