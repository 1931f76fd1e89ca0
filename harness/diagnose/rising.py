"""Where a loss rises far above what was usual before."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from harness.diagnose.broken import healthy_part, is_policy
from harness.diagnose.cases import Case


def rise(case: Case) -> tuple[NDArray[np.float64], int] | None:
    """The finite losses before anything breaks, and the index from which three are far above what was usual."""
    loss = case.curve.loss[healthy_part(case)]
    loss = loss[np.isfinite(loss)]
    if is_policy(case.curve):
        return None
    for index in range(1, len(loss) - 2):
        before = loss[:index]
        if loss[index : index + 3].min() > usual(before) + _margin(before):
            return loss, index
    return None


def rising_at_the_end(case: Case) -> tuple[NDArray[np.float64], int] | None:
    """The same for a curve whose last three losses rise, each above the one before, to half as high again as was usual
    before them: a log that ends while its loss climbs."""
    loss = case.curve.loss[healthy_part(case)]
    if (
        len(loss) < 5
        or not np.isfinite(loss).all()
        or is_policy(case.curve)
        or (np.diff(loss[-4:]) <= 0).any()
    ):
        return None
    level, last = usual(loss[:-3]), float(loss[-1])
    return (loss, len(loss) - 3) if last > 1.5 * abs(level) and last > level + 1 + _noise(loss[:-3]) else None


def usual(loss: NDArray[np.float64]) -> float:
    """The best level so far: the least median of three losses in a row, or of all where there are fewer."""
    if len(loss) < 3:
        return float(np.median(loss))
    return float(np.median(np.lib.stride_tricks.sliding_window_view(loss, 3), axis=1).min())


def _margin(loss: NDArray[np.float64]) -> float:
    """How far above the usual level is far: five times the noise of a difference, or the loss itself while that cannot
    be told."""
    level = abs(usual(loss))
    return max(level if len(loss) <= 3 else 0.5 * level, 0.5, _noise(loss))


def _noise(loss: NDArray[np.float64]) -> float:
    """Five times the usual difference of one loss to the next; 0 while that cannot be told."""
    return 5 * float(np.median(np.abs(np.diff(loss)))) if len(loss) > 3 else 0.0
