"""What the common steps of two curves do not show: a curve that broke elsewhere, or ended early."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from analysis.judge.band import Floats
from analysis.judge.convergence import Curve, divergence
from harness.diagnose.broken import zeros_for_nan
from harness.diagnose.curve import Curve as Logged
from harness.study import Rule
from harness.system.errors import HarnessError
from harness.words import counted


def up_to(curves: Sequence[Logged], last: int | None) -> list[Logged]:
    """The curves to step `last` and no further; a curve without a loss as it is. Raises HarnessError."""
    if last is None:
        return list(curves)
    for one in curves:
        if len(one) and one.step[0] > last:
            raise HarnessError(
                f"--up-to {last}: {one.name or 'a curve'} begins at step {one.step[0]}; give that or more"
            )
    return [at_rows(one, np.flatnonzero(one.step <= last)) for one in curves]


def at_rows(one: Logged, rows: NDArray[np.intp]) -> Logged:
    """The loss and the gradient norm of some rows of a curve; the rest is left out."""
    return replace(
        one,
        step=one.step[rows],
        loss=one.loss[rows],
        grad_norm=one.grad_norm[rows],
        time=np.empty(0),
        learning_rate=np.empty(0),
        loss_scale=np.empty(0),
    )


@dataclass(frozen=True)
class Broken:
    """Where a whole curve first is no training, and how that goes on."""

    step: int
    reason: str


def broken(one: Logged, rule: Rule, zeros: bool = False) -> Broken | None:
    """Where a curve's loss is not finite, or stuck, at any step that it has; None for a sound one.

    `zeros`: losses of exactly 0 may stand for NaN, as where the curve that is kept has none.
    """
    zero = zeros_for_nan(one) & zeros
    counting = np.arange(len(one), dtype=float)  # norms that never repeat, so that the loss alone decides
    norm = np.where(np.isfinite(one.grad_norm), one.grad_norm, counting)
    loss = np.where(zero, np.nan, one.loss)
    found = divergence(Curve(loss, norm), rule)
    if found is None:
        return None
    place, reason = found
    said = "loss is exactly 0, which stands for NaN," if zero[place] else reason
    return Broken(int(one.step[place]), f"{said}{_how_it_goes_on(loss, place)}")


def _how_it_goes_on(loss: Floats, place: int) -> str:
    """What follows on a loss that is not finite, in words; empty where that does not matter."""
    after = np.isfinite(loss[place + 1 :])
    if np.isfinite(loss[place]) or not len(after):
        return ""
    if after.all():
        return f" there alone; {counted(len(after), 'step')} after it {'is' if len(after) == 1 else 'are'} finite"
    return (
        " from there on"
        if not after.any()
        else f" there and at {(~after).sum()} of {len(after)} steps after it"
    )


def ended_early(one: Logged, kept: Sequence[Logged]) -> int | None:
    """The step that `kept` goes on to where `one` ends clearly before: a step that it would have logged is missing.

    Of several kept curves the shortest decides. A curve that counts from 0 is one ahead of one that does not.
    """
    longest_asked = min(kept, key=lambda curve: int(curve.step[-1]))
    end = int(longest_asked.step[-1])
    ahead = int(one.step[0] == 0 and longest_asked.step[0] > 0)
    every = _interval(one) or _interval(longest_asked) or 1
    return end if end - int(one.step[-1]) - ahead >= every else None


def _interval(one: Logged) -> int:
    """Usual number of steps from one logged step to the next; 0 for a curve of one step."""
    return int(np.median(np.diff(one.step))) if len(one) > 1 else 0
