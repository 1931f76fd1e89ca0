"""Which steps of a curve are broken: not finite, zero where NaN was meant, or overflowing past what fp16 explains."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from harness.diagnose.cases import Case
from harness.diagnose.curve import Curve

Mask = NDArray[np.bool_]

SMALL = 0.05
"""A loss below it may be printed as 0.0 a few steps later."""
FROZEN = (1.0, math.sqrt(2))
"""Gradient norms of a clipped NaN, on one rank's share or two."""
FIRST_OVERFLOWS = 20
"""Steps in a row that fp16 skips at the start at most: a scale of 2^16 is halved to 1 in 16, hysteresis adds two."""
LATER_OVERFLOWS = 3
"""Steps in a row that it skips later, when the scale has been doubled once too often."""
OFTEN, APART = 4, 20
"""So many rows of overflows, so few steps apart, are taken for fp16 only where that is known to be in use: the scale is
halved by each, and grows again in a thousand steps."""
POLICY = ("reward", "kl", "advantage", "entropy", "policy", "completion")
"""Parts of column names of a reinforcement learning, whose loss begins at 0 and stays near it."""


def broken(case: Case) -> Mask:
    """Steps that are wrong beyond doubt; shape [steps]."""
    return case.curve.bad_loss | zeros_for_nan(case.curve) | (case.curve.bad_gradient & ~overflows(case))


def zeros_for_nan(curve: Curve) -> Mask:
    """Losses of exactly 0 that stand for NaN, as Hugging Face's Trainer prints one at `logging_steps` 1.

    A loss that has fallen to nearly nothing, and that of a policy gradient, are 0 without fault.
    """
    zero = curve.loss == 0
    none = np.zeros(len(curve), dtype=bool)
    if not zero.any():
        return none
    norm = curve.grad_norm[zero]
    if np.isinf(norm).any():
        return np.asarray(zero, dtype=bool)
    if alive(norm) or is_policy(curve) or _comes_and_goes_with_its_gradient(curve, zero):
        return none
    first = int(np.flatnonzero(zero)[0])
    before = np.abs(curve.loss[:first])
    before = before[np.isfinite(before)]
    small = len(before) > 0 and float(np.median(before[-3:])) < SMALL
    return none if small else np.asarray(zero, dtype=bool)


def _comes_and_goes_with_its_gradient(curve: Curve, zero: Mask) -> bool:
    """Whether sound losses follow on zeros whose gradient norm is exactly 0, as those of a margin loss do."""
    first = int(np.flatnonzero(zero)[0])
    return bool(
        (curve.grad_norm[zero] == 0).all() and (~zero[first:]).any() and np.isfinite(curve.loss).all()
    )


def alive(norm: NDArray[np.float64]) -> bool:
    """Whether gradient norms are recorded, not 0, and more than one value that is not frozen."""
    known = norm[np.isfinite(norm)]
    moving = known[(known > 0) & ~is_frozen(known)]
    return (
        len(moving) > 0 and len(moving) >= len(known) / 2 and (len(moving) < 3 or float(np.ptp(moving)) > 0)
    )


def is_frozen(norm: NDArray[np.float64]) -> Mask:
    return np.asarray(np.any([np.isclose(norm, value, rtol=1e-6) for value in FROZEN], axis=0), dtype=bool)


def is_policy(curve: Curve) -> bool:
    """Whether it is a reinforcement learning, by its columns or by losses on both sides of 0."""
    if any(part in name.lower() for name in curve.columns for part in POLICY):
        return True
    finite = curve.loss[np.isfinite(curve.loss)]
    return bool((finite < 0).any() and (finite >= 0).any())


def runs(mask: Mask) -> list[tuple[int, int]]:
    """First index and length of each row of true values."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], mask.astype(np.int8), [0]])))
    return [(int(start), int(end - start)) for start, end in zip(edges[::2], edges[1::2], strict=True)]


def overflows(case: Case) -> Mask:
    """Steps with an infinite gradient norm that fp16's loss scale explains, where it may be in use."""
    explained = np.zeros(len(case.curve), dtype=bool)
    if case.loss_scaling is False:
        return explained
    whole, found = len(case.curve), runs(case.curve.bad_gradient)
    starts = case.curve.step[np.array([start for start, _ in found], dtype=int)]
    if case.loss_scaling is None and len(found) >= OFTEN and np.median(np.diff(starts)) < APART:
        return explained
    for start, length in found:
        ends = start + length == whole
        limit = FIRST_OVERFLOWS if start <= 1 else LATER_OVERFLOWS
        if case.loss_scaling is None and ends and length > LATER_OVERFLOWS:
            continue  # without end, as far as one can see, and nobody says that it is fp16
        if length <= limit:
            explained[start : start + length] = True
    halved_to_1 = case.curve.loss_scale <= 1  # from where on there is nothing to halve
    return np.asarray(explained & ~case.curve.bad_loss & ~halved_to_1, dtype=bool)


def without_end(case: Case) -> tuple[int, int] | None:
    """The row of overflows that a loss scale does not explain (first index, length), where fp16 may be in use."""
    if case.loss_scaling is False:
        return None
    sound = ~case.curve.bad_loss & ~zeros_for_nan(case.curve)  # a skipped step has a loss like any other
    for start, length in runs(case.curve.bad_gradient & ~overflows(case) & sound):
        if length > LATER_OVERFLOWS:
            return start, length
    return None


def broken_steps(case: Case) -> NDArray[np.intp]:
    return np.flatnonzero(broken(case))


def healthy_part(case: Case) -> slice:
    found = broken_steps(case)
    return slice(0, int(found[0]) if len(found) else len(case.curve))
