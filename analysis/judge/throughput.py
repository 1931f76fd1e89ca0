"""Step times of a pair: the ratio run / baseline with its interval, and which steps stand out.

Steps are paired by index and put into blocks, because neighbouring step times are alike: at most MAX_BLOCKS, and none
shorter than the series itself asks for (`block_length`). The first `rule.warmup_steps_dropped` steps are left out. Of
fewer than FEWEST_BLOCKS blocks the interval is too narrow to be used: it is shown, said to be so, and decides nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

from analysis.judge.band import Floats
from analysis.judge.convergence import bootstrap_median
from harness.study import Rule

MAX_BLOCKS = 30
FEWEST_BLOCKS = 10  # percentile intervals of a median of fewer hold too seldom
OUTLIER_MADS = 5.0  # a ratio this many scaled median deviations from the median is shown as an outlier


def steady_blocks(values: Floats, rule: Rule) -> list[Floats]:
    """The values after the warm-up in at most MAX_BLOCKS blocks; none where nothing is left or a value is no time."""
    kept = values[rule.warmup_steps_dropped :]
    if not len(kept) or not (np.isfinite(kept).all() and (kept > 0).all()):
        return []
    return np.array_split(kept, max(1, min(MAX_BLOCKS, len(kept) // block_length(np.log(kept)))))


def block_length(values: Floats) -> int:
    """Steps a block must have for neighbouring blocks to be nearly independent; values of shape (steps,).

    Politis and White 2004, doi 10.1081/ETC-120028836, as corrected by Patton, Politis and White 2009: from the
    autocorrelation up to the lag after which it is noise, tapered, the best length of the circular block bootstrap.
    """
    steps = len(values)
    centred = values - values.mean()
    variance = float(centred @ centred) / steps
    quiet = max(5, math.ceil(math.sqrt(math.log10(steps)))) if steps > 1 else 1
    lags = min(math.ceil(math.sqrt(steps)) + quiet, steps - 1)
    if variance <= 0 or lags < 1:
        return 1
    covariance = np.array([float(centred[: steps - lag] @ centred[lag:]) / steps for lag in range(lags + 1)])
    small = np.abs(covariance[1:] / variance) < 2 * math.sqrt(math.log10(steps) / steps)
    after = next((lag for lag in range(len(small)) if small[lag : lag + quiet].all()), lags)
    reach = np.arange(1, min(2 * max(after, 1), lags) + 1)
    taper = np.minimum(1.0, 2 * (1 - reach / (2 * max(after, 1))))
    spectrum = variance + 2 * float(taper @ covariance[reach])
    slope = 2 * float(taper @ (reach * covariance[reach]))
    if not after or spectrum <= 0:
        return 1
    best: float = float(2 * slope**2 / (4 / 3 * spectrum**2) * steps) ** (1 / 3)
    return max(1, min(math.ceil(best), math.ceil(min(3 * math.sqrt(steps), steps / 3))))


def block_ratios(run: Floats, baseline: Floats, rule: Rule) -> Floats:
    """Ratios of block medians, shape (blocks,), from step seconds of shape (steps,); empty when nothing is left."""
    steps = min(len(run), len(baseline))
    keep = slice(rule.warmup_steps_dropped, steps)
    run, baseline = run[keep], baseline[keep]
    if not len(run) or not (np.isfinite(run).all() and np.isfinite(baseline).all() and (baseline > 0).all()):
        return np.empty(0)
    length = block_length(np.log(run / baseline)) if (run > 0).all() else 1
    blocks = max(1, min(MAX_BLOCKS, len(run) // length))
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
    too_narrow: bool  # so few blocks that the interval must not be used


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
        len(ratios) < FEWEST_BLOCKS,
    )


def outliers(ratios: Floats) -> npt.NDArray[np.bool_]:
    """Which ratios stand out (shape of `ratios`); they are shown, never dropped."""
    distance = np.abs(ratios - np.median(ratios)) if ratios.size else ratios
    scale = 1.4826 * np.median(distance) if ratios.size else 0.0
    return distance > OUTLIER_MADS * scale if scale > 0 else np.zeros(ratios.shape, bool)
