"""Signs: what can be seen in a curve, each with the numbers that show it."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from harness.diagnose.cases import Case
from harness.diagnose.curve import Curve

STUCK = 5  # equal losses in a row
SILENCE_SECONDS = 10.0
SILENCE = 20  # times the longest step so far
SILENCE_BEFORE_FIRST = 300.0  # seconds without a first step


def curve_signs(case: Case) -> dict[str, str]:
    """Every sign that the curve shows, with its numbers."""
    found = {name: sign(case) for name, sign in SIGNS.items()}
    return {name: seen for name, seen in found.items() if seen is not None}


def _broken(case: Case) -> NDArray[np.intp]:
    """Indices of steps whose loss, or (but for loss scaling) gradient norm, is not finite."""
    bad_gradient = np.isinf(case.curve.grad_norm) & (not case.loss_scaling)
    return np.flatnonzero(np.isnan(case.curve.loss) | bad_gradient)


def _healthy_part(case: Case) -> slice:
    broken = _broken(case)
    return slice(0, int(broken[0]) if len(broken) else len(case.curve))


def broken_at_once(case: Case) -> str | None:
    """Not finite in the first step or the second (the first with secondary partitions of this run's own making)."""
    broken = _broken(case)
    if not len(broken) or broken[0] > 1:
        return None
    return f"loss or gradient norm is not finite at step {case.curve.step[broken[0]]} already"


def broken_later(case: Case) -> str | None:
    broken = _broken(case)
    if not len(broken) or broken[0] <= 1:
        return None
    return f"loss or gradient norm is finite up to step {case.curve.step[broken[0] - 1]}, then not"


def stays_broken(case: Case) -> str | None:
    broken = _broken(case)
    rest = len(case.curve) - int(broken[0]) if len(broken) else 0
    return f"all {rest} steps from there on are not finite" if rest == len(broken) >= 3 else None


def comes_and_goes(case: Case) -> str | None:
    """Finite steps between steps that are not, twice at least."""
    broken = _broken(case)
    returns = int((np.diff(broken) > 1).sum()) + int(len(broken) > 0 and broken[-1] < len(case.curve) - 1)
    if returns < 2:
        return None
    return f"{len(broken)} of {len(case.curve)} steps are not finite, with finite ones between"


def climbs(case: Case) -> str | None:
    """Three losses in a row half as high again as the best before them (and by 0.5 at least)."""
    loss = case.curve.loss[_healthy_part(case)]
    if len(loss) < 4:
        return None
    best = np.minimum.accumulate(loss)
    high = loss[1:] > best[:-1] + np.maximum(0.5 * best[:-1], 0.5)
    runs = np.flatnonzero(high[:-2] & high[1:-1] & high[2:])
    if not len(runs):
        return None
    top = float(loss.max())
    return f"the loss climbs from {best[runs[0]]:.3g} to {top:.3g} over several steps"


def gradient_grows(case: Case) -> str | None:
    """The median of three gradient norms in a row is ten times the first."""
    norm = case.curve.grad_norm[_healthy_part(case)]
    norm = norm[np.isfinite(norm)]
    if len(norm) < 4 or norm[0] <= 0:
        return None
    top = float(np.median(np.lib.stride_tricks.sliding_window_view(norm, 3), axis=1).max())
    return f"the gradient norm grows from {norm[0]:.3g} to {top:.3g}" if top >= 10 * norm[0] else None


def _stuck_value(curve: Curve) -> float | None:
    tail = curve.loss[-STUCK:]
    constant = len(tail) == STUCK and np.isfinite(tail).all() and (tail == tail[0]).all()
    return float(tail[0]) if constant else None


def stuck(case: Case) -> str | None:
    value = _stuck_value(case.curve)
    return None if value is None else f"the last {STUCK} losses or more are all {value:.6g}"


def no_gradient(case: Case) -> str | None:
    stands = _stuck_value(case.curve) is not None and (case.curve.grad_norm[-STUCK:] == 0).all()
    return "the gradient norm is exactly 0 there" if stands else None


def uniform_guess(case: Case) -> str | None:
    value = _stuck_value(case.curve)
    if value is None or not case.vocabulary or abs(value - math.log(case.vocabulary)) > 0.01:
        return None
    return f"{value:.4f} is the logarithm of the vocabulary, {case.vocabulary} tokens"


def zero_loss(case: Case) -> str | None:
    zeros = int((case.curve.loss == 0).sum())
    return f"{zeros} losses are exactly 0" if zeros >= 3 else None


def first_step_too_high(case: Case) -> str | None:
    """A single loss far above its neighbours, right after the start or a restart."""
    loss = case.curve.loss
    for index in case.curve.restarts:
        before, after = loss[max(0, index - 4) : index], loss[index + 1 : index + 5]
        if len(before) < 3 or len(after) < 2 or not np.isfinite(loss[index - len(before) : index + 1]).all():
            continue
        usual = float(np.median(before))
        high = usual + max(4 * float(np.median(np.abs(np.diff(before)))), 0.1 * usual)
        if loss[index] > high and np.nanmedian(after) < (usual + loss[index]) / 2:
            return f"step {case.curve.step[index]}, the first after a restart, has {loss[index]:.3g} after {usual:.3g}"
    after = loss[1:8]
    if len(after) < 5 or not np.isfinite(loss[:8]).all():
        return None
    usual_change = float(np.median(np.abs(np.diff(after))))
    if loss[0] - loss[1] > max(8 * usual_change, 0.5):
        return f"the first step has {loss[0]:.3g}, those after it {np.median(after):.3g}"
    return None


def does_not_learn(case: Case) -> str | None:
    """Twelve finite losses or more without a downward trend (Spearman's rank correlation, one-sided 5 %)."""
    curve = case.curve
    if len(curve) < 12 or len(_broken(case)) or stuck(case) or climbs(case) or np.ptp(curve.loss) == 0:
        return None
    trend = stats.spearmanr(curve.step, curve.loss, alternative="less")
    if trend.pvalue < 0.05:
        return None
    return f"no downward trend in {len(curve)} steps (rank correlation {trend.statistic:+.2f})"


def untrained_level(case: Case) -> str | None:
    if not case.vocabulary or does_not_learn(case) is None:
        return None
    level, guess = float(np.median(case.curve.loss)), math.log(case.vocabulary)
    return f"the loss stays at {level:.3g}; guessing gives {guess:.3g}" if level > 0.95 * guess else None


def silent(case: Case) -> str | None:
    """Nothing heard for 20 times the longest step, and for 10 s at least."""
    if case.silence is None:
        return None
    gaps = np.diff(case.curve.time)
    gaps = np.delete(gaps, [index - 1 for index in case.curve.restarts])
    known = gaps[np.isfinite(gaps)]
    limit = max(SILENCE * float(known.max()), SILENCE_SECONDS) if len(known) else SILENCE_BEFORE_FIRST
    return f"nothing was heard for {case.silence:.0f} s" if case.silence > limit else None


SIGNS: dict[str, Callable[[Case], str | None]] = {
    "broken at once": broken_at_once,
    "broken later": broken_later,
    "stays broken": stays_broken,
    "comes and goes": comes_and_goes,
    "climbs": climbs,
    "gradient grows": gradient_grows,
    "stuck": stuck,
    "no gradient": no_gradient,
    "uniform guess": uniform_guess,
    "zero loss": zero_loss,
    "first step too high": first_step_too_high,
    "does not learn": does_not_learn,
    "untrained level": untrained_level,
    "silent": silent,
}
