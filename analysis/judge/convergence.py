"""What a pair's losses show: the verdict, where the run first went wrong, and what an equivalence could have missed.

Everything here is a function of arrays over steps; which runs form a pair is decided in analysis.judge.pairs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy import stats

from analysis.judge.band import FEWEST_SEEDS, Band, Floats
from harness.study import Rule

Bools = npt.NDArray[np.bool_]
Verdict = Literal["exact", "equivalent", "drifted", "diverged"]
VERDICTS: tuple[Verdict, ...] = ("exact", "equivalent", "drifted", "diverged")
RESAMPLES = 999


@dataclass(frozen=True, eq=False)
class Curve:
    """Loss (nats per token) and global gradient norm of one run, both of shape (steps,)."""

    loss: Floats
    grad_norm: Floats

    def __len__(self) -> int:
        return len(self.loss)


@dataclass(frozen=True)
class Judgement:
    """The verdict of one pair; `reason` says in words what decided it."""

    verdict: Verdict
    reason: str
    first_bad_step: int | None
    first_differing_step: int | None
    max_abs_loss_difference: float | None  # over the steps where both losses are finite; None: there is none
    smallest_drift: float | None = (
        None  # of an equivalence: what would have been seen (`Band.smallest_drift`)
    )


@dataclass(frozen=True)
class Interval:
    """An estimate with its confidence interval from `n` values; the ends are None where n is too small for one."""

    estimate: float
    low: float | None
    high: float | None
    n: int


def judge(run: Curve, baseline: Curve, band: Band | None, rule: Rule) -> Judgement:
    """Compare a run with its baseline, both of the same number of steps; the baseline must not have diverged."""
    differing = first(~(_same_bits(run.loss, baseline.loss) & _same_bits(run.grad_norm, baseline.grad_norm)))
    both = np.isfinite(run.loss) & np.isfinite(baseline.loss)
    largest = float(np.max(np.abs(run.loss[both] - baseline.loss[both]))) if both.any() else None
    bad = divergence(run, rule)
    if bad is not None:
        return Judgement("diverged", bad[1], bad[0], differing, largest)
    if differing is None:
        return Judgement("exact", "every loss and gradient norm is bit-equal", None, None, largest)
    if band is None:
        needed = max(rule.minimum_seeds, FEWEST_SEEDS)
        reason = f"not bit-equal, and no tolerance band: it needs {needed} sound baseline seeds"
        return Judgement("drifted", reason, differing, differing, largest)
    outside = band.first_outside(run.loss)
    if outside is None:
        reason = f"inside the band of {band.seeds} baseline seeds at every step; {would_show(band)}"
        return Judgement("equivalent", reason, None, differing, largest, band.smallest_drift)
    reason = f"finite, but outside the band of {band.seeds} baseline seeds"
    return Judgement("drifted", reason, outside, differing, largest)


def would_show(band: Band) -> str:
    """What an equivalence could have missed, in words."""
    return f"a loss higher by {band.smallest_drift:.2g} over the last half would have shown (95 %)"


def divergence(curve: Curve, rule: Rule) -> tuple[int, str] | None:
    """First step from which the curve is no training any more, and why; None for a sound curve."""
    nonfinite = first(~(np.isfinite(curve.loss) & np.isfinite(curve.grad_norm)))
    stuck = _first_stuck(curve, rule.stuck_steps)
    if nonfinite is None and stuck is None:
        return None
    if stuck is not None and (nonfinite is None or stuck < nonfinite):
        return stuck, f"loss and gradient norm stuck at {curve.loss[stuck]:g} and {curve.grad_norm[stuck]:g}"
    assert nonfinite is not None
    name, values = (
        ("loss", curve.loss) if not np.isfinite(curve.loss[nonfinite]) else ("gradient norm", curve.grad_norm)
    )
    return nonfinite, f"{name} is {'NaN' if np.isnan(values[nonfinite]) else 'infinite'}"


def _first_stuck(curve: Curve, count: int) -> int | None:
    """First step of `count` in a row with the same finite loss and the same gradient norm."""
    if len(curve) < count:
        return None
    loss, norm = curve.loss, curve.grad_norm
    same = np.isfinite(loss[1:]) & (loss[1:] == loss[:-1]) & (norm[1:] == norm[:-1])
    streaks = np.lib.stride_tricks.sliding_window_view(same, count - 1)
    return first(np.asarray(streaks.all(axis=1)))


def final_difference(runs: list[Floats], baselines: list[Floats], rule: Rule) -> Interval | None:
    """Mean loss of the final window, run minus baseline, paired by seed; None where a value is not finite."""
    window = slice(-rule.final_window, None)
    values = np.array(
        [run[window].mean() - base[window].mean() for run, base in zip(runs, baselines, strict=True)]
    )
    return bootstrap_mean(values, rule.confidence) if values.size and np.isfinite(values).all() else None


def bootstrap_mean(values: Floats, confidence: float) -> Interval:
    """Mean with percentile bootstrap interval; without ends for fewer than three values."""
    return _bootstrap(values, np.mean, confidence)


def bootstrap_median(values: Floats, confidence: float) -> Interval:
    """Median with percentile bootstrap interval; without ends for fewer than three values."""
    return _bootstrap(values, np.median, confidence)


def _bootstrap(values: Floats, statistic: object, confidence: float) -> Interval:
    estimate = float(statistic(values))  # type: ignore[operator]
    if len(values) < 3:
        return Interval(estimate, None, None, len(values))
    found = stats.bootstrap(
        (values,),
        statistic,
        confidence_level=confidence,
        n_resamples=RESAMPLES,
        method="percentile",
        rng=np.random.default_rng(0),  # the same data give the same interval
    ).confidence_interval
    return Interval(estimate, float(found.low), float(found.high), len(values))


def first(condition: Bools) -> int | None:
    """Index of the first true value; None if there is none."""
    found = np.flatnonzero(condition)
    return int(found[0]) if found.size else None


def _same_bits(left: Floats, right: Floats) -> Bools:
    return np.equal(left.view(np.int64), right.view(np.int64))
