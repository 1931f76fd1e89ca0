"""Soft signs: what is odd about a curve and may be ordinary; they name a fault only where a setup is exposed to it."""

from __future__ import annotations

import math

import numpy as np
from scipy import stats

from harness.diagnose.broken import broken_steps, healthy_part, is_policy
from harness.diagnose.cases import Case
from harness.diagnose.curve import Floats
from harness.diagnose.rising import rise
from harness.diagnose.signs import (
    HARD,
    Sign,
    broken_by_the_first_update,
    climbs,
    stuck,
    worse_after_a_restart,
)

AROUND = 5  # losses before and after one that sticks out
NOISY_UNTIL = 20  # losses; more of them show a trend


def curve_signs(case: Case) -> dict[str, str]:
    """Every sign that the curve shows, hard or soft, with its numbers."""
    found = {name: sign(case) for name, sign in SIGNS.items()}
    return {name: seen for name, seen in found.items() if seen is not None}


def gradient_grows(case: Case) -> str | None:
    """The median of three gradient norms in a row is ten times that of the first three, and nothing is learnt by it."""
    part = healthy_part(case)
    norm, loss = case.curve.grad_norm[part], case.curve.loss[part]
    norm, loss = norm[np.isfinite(norm)], loss[np.isfinite(loss)]
    if len(norm) < 4 or norm[0] <= 0:
        return None
    smooth = np.median(np.lib.stride_tricks.sliding_window_view(norm, 3), axis=1)
    learnt = len(loss) > 3 and part.stop == len(case.curve) and np.median(loss[-3:]) < 0.98 * loss[0]
    if learnt or smooth.max() < 10 * smooth[0]:
        return None
    return f"the gradient norm grows from {smooth[0]:.3g} to {float(smooth.max()):.3g}"


def learning_rate_0_at_first(case: Case) -> str | None:
    rate = case.curve.learning_rate
    zeros = int(np.argmax(rate != 0)) if (rate != 0).any() else 0
    if zeros < 3:
        return None
    return f"the learning rate is exactly 0 in the first {zeros} steps: nothing is trained there"


def first_step_too_high(case: Case) -> str | None:
    """A single loss far above its neighbours, right after the start or a restart; only where every step is logged."""
    loss = case.curve.loss
    for index in case.curve.restarts:
        before, after = loss[max(0, index - 4) : index], loss[index + 1 : index + 5]
        if len(before) < 3 or len(after) < 2 or not np.isfinite(loss[index - len(before) : index + 1]).all():
            continue
        usual = float(np.median(before))
        high = usual + max(4 * float(np.median(np.abs(np.diff(before)))), 0.1 * usual)
        if loss[index] > high and np.nanmedian(after) < (usual + loss[index]) / 2:
            return f"step {case.curve.step[index]}, the first after a restart, has {loss[index]:.3g} after {usual:.3g}"
    every = np.median(np.diff(case.curve.step)) if len(loss) > 1 else 1
    after = loss[1:8]
    if len(after) < 4 or every > 1 or not np.isfinite(loss[:8]).all():
        return None
    usual, change = float(np.median(after)), float(np.median(np.abs(np.diff(after))))
    if loss[0] > 2 * usual and loss[0] - loss[1] > max(5 * change, 2.0):
        return f"the first step has {loss[0]:.3g}, those after it {usual:.3g}"
    return None


def _trend(case: Case) -> float | None:
    """Spearman's rank correlation of loss and step where it shows no fall (one-sided 5 %)."""
    loss = case.curve.loss
    if (
        not case.curve.has_loss
        or len(loss) < 6
        or len(broken_steps(case))
        or stuck(case)
        or rise(case)
        or np.ptp(loss) == 0
    ):
        return None
    trend = stats.spearmanr(case.curve.step, loss, alternative="less")
    return None if trend.pvalue < 0.05 else float(trend.statistic)


def new_level(case: Case) -> str | None:
    """A jump from which the loss falls again."""
    found = rise(case)
    if found is None or climbs(case) or broken_by_the_first_update(case) or worse_after_a_restart(case):
        return None
    loss, index = found
    return (
        f"the loss jumps to {loss[index]:.3g} and falls again from there, as it does where other data begins"
    )


def does_not_learn(case: Case) -> str | None:
    """Twelve finite losses or more without a downward trend."""
    trend = _trend(case) if len(case.curve) >= 12 and not is_policy(case.curve) else None
    if trend is None:
        return None
    return f"no downward trend in {len(case.curve)} steps (rank correlation {trend:+.2f})"


def untrained_level(case: Case) -> str | None:
    if not case.vocabulary or does_not_learn(case) is None:
        return None
    level, guess = float(np.median(case.curve.loss)), math.log(case.vocabulary)
    return f"the loss stays at {level:.3g}; guessing gives {guess:.3g}" if level > 0.95 * guess else None


def outlier(case: Case) -> str | None:
    """A finite loss at twice the usual of the five before and after it, by 1 and ten times their spread at least."""
    loss = case.curve.loss
    if not case.curve.has_loss or is_policy(case.curve):
        return None
    found = [place for place in range(AROUND, len(loss) - AROUND) if _sticks_out(loss, place)]
    if not found:
        return None
    worst = max(found, key=lambda place: float(loss[place]))
    others = f", one of {len(found)} such" if len(found) > 1 else ""
    usual = float(np.median(_around(loss, worst)))
    at = case.curve.step[worst]
    return f"step {at} has a loss of {loss[worst]:.3g}, those around it {usual:.3g}{others}: an odd batch, perhaps"


def _around(loss: Floats, place: int) -> Floats:
    return np.concatenate([loss[place - AROUND : place], loss[place + 1 : place + 1 + AROUND]])


def _sticks_out(loss: Floats, place: int) -> bool:
    around = _around(loss, place)
    if not np.isfinite(loss[place]) or not np.isfinite(around).all():
        return False
    usual = float(np.median(around))
    spread = float(np.median(np.abs(around - usual)))
    return bool(loss[place] - usual > max(1.0, abs(usual), 10 * spread))


def jumps_about(case: Case) -> str | None:
    """Losses that differ by more than a quarter of themselves, and by 1.5 in all, without a trend."""
    trend, loss = _trend(case), case.curve.loss
    if trend is None or is_policy(case.curve):
        return None
    spread = float(np.std(loss) / np.mean(loss))
    if spread < 0.25 or np.ptp(loss) < 1.5:
        return None
    return f"the loss jumps between {loss.min():.3g} and {loss.max():.3g} without a trend"


def too_noisy(case: Case) -> bool:
    """Fewer than 20 losses, of which a third rise, by more than a quarter of the usual from one to the next: whether
    that is noise or a fault shows in more of them only."""
    loss = case.curve.loss
    if len(loss) >= NOISY_UNTIL or len(loss) < 5 or not np.isfinite(loss).all() or is_policy(case.curve):
        return False
    jumps = np.diff(loss)
    return bool(
        (jumps > 0).mean() > 1 / 3
        and np.median(np.abs(jumps)) > 0.25 * abs(np.median(loss))
        and np.ptp(loss) > 1.5
    )


def first_loss_above_guessing(case: Case) -> str | None:
    loss = case.curve.loss
    if not case.vocabulary or len(loss) < 2 or not np.isfinite(loss[:2]).all():
        return None
    guess = math.log(case.vocabulary)
    return f"the loss begins at {loss[0]:.3g}; guessing gives {guess:.3g}" if loss[0] > 1.5 * guess else None


def evaluation_only(case: Case) -> str | None:
    if len(case.curve) or not len(case.curve.eval_loss):
        return None
    accuracy = case.curve.eval_accuracy
    worst = " and an accuracy of exactly 0" if len(accuracy) and accuracy[-1] == 0 else ""
    return f"only evaluations are here, the last with a loss of {case.curve.eval_loss[-1]:.4g}{worst}"


def evaluation_bad(case: Case) -> str | None:
    """Training has learnt, and no evaluation has got below where training began."""
    loss, evaluated = case.curve.loss, case.curve.eval_loss
    evaluated = evaluated[np.isfinite(evaluated)]
    finite = loss[np.isfinite(loss)]
    if not len(evaluated) or len(finite) < 5:
        return None
    begin, end = float(np.median(finite[:3])), float(np.median(finite[-3:]))
    if end > 0.7 * begin or evaluated.min() < 0.95 * begin:
        return None
    return f"training falls from {begin:.3g} to {end:.3g}, while evaluation stays at {evaluated.min():.3g}"


SOFT: dict[str, Sign] = {
    "gradient grows": gradient_grows,
    "learning rate 0 at first": learning_rate_0_at_first,
    "first step too high": first_step_too_high,
    "does not learn": does_not_learn,
    "untrained level": untrained_level,
    "jumps about": jumps_about,
    "outlier": outlier,
    "new level": new_level,
    "first loss above guessing": first_loss_above_guessing,
    "evaluation only": evaluation_only,
    "evaluation bad": evaluation_bad,
}
SIGNS: dict[str, Sign] = {**HARD, **SOFT}
