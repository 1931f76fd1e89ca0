"""One run against another of the same settings, seed and data: bit-equal, rounding, or more than rounding explains."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from harness.diagnose.cases import Case
from harness.diagnose.curve import Curve, Floats
from harness.words import counted

ROUNDING = 2.0**-8  # relative; a value in bf16 is off by at most so much
FEW = 3  # common steps; in so few, two curves may be alike by chance once one is shifted
SOON = 20  # steps; in more, differences as small as rounding grow by themselves


def runs_differ(case: Case) -> str | None:
    """The first value that differs by more than rounding, soon after the start or without any difference before it."""
    found = [] if case.other is None else first_differences(case.curve, case.other)
    if not found:
        return None
    return f"a second run differs, first at step {found[0][1]}; by more than rounding: {differing(found)}"


Difference = tuple[int, int, str, float, float]
"""Place among the common steps, step, name of the value, and both values."""


def differing(found: Sequence[Difference]) -> str:
    """What `first_differences` found, in words."""
    values = "; ".join(
        f"the {name} first at step {step} ({one:.4g} against {other:.4g}{_percent(one, other)})"
        for _, step, name, one, other in found
    )
    at_once = (
        "; already in the first step, so see that seed and data are the same" if found[0][0] == 0 else ""
    )
    return values + at_once


def compared(case: Case) -> str | None:
    """What a comparison shows beside what it found, in words; None without a second run."""
    if case.other is None:
        return None
    if first_differences(case.curve, case.other):
        return off_by_one(case.other, [case.curve])
    return f"the second run {alike(case.curve, case.other)}"


def alike(one: Curve, other: Curve) -> str:
    """How two curves compare that do not differ by more than rounding, in words that follow the name of the second."""
    differences = np.concatenate([difference for _, _, difference in _columns(one, other)])
    steps, known = len(_common(one, other)), differences[~np.isnan(differences)]
    if not len(known):
        return "has no step in common with the first"
    if not known.any():
        return f"is the same in all digits of {counted(steps, 'common step')}"
    if known.max() <= ROUNDING:
        return f"differs by at most {100 * known.max():.2g}% in {counted(steps, 'common step')}: rounding, no fault"
    return f"differs more only after {SOON} steps, as rounding can grow to: no finding"


def off_by_one(one: Curve, kept: Sequence[Curve]) -> str | None:
    """What is to be said where steps counted one higher or lower make a curve like a kept one; None where not."""
    for shift, numbers in ((1, "higher"), (-1, "lower")):
        for other in kept:
            _, mine, its = np.intersect1d(one.step + shift, other.step, return_indices=True)
            loss, wanted = one.loss[mine], other.loss[its]
            if len(mine) <= FEW or not (np.isfinite(loss).all() and np.isfinite(wanted).all()):
                continue
            if (np.abs(loss - wanted) <= ROUNDING * np.abs(wanted)).all():
                alike = "the same" if (loss == wanted).all() else "alike but for rounding"
                steps = f"with the steps of {one.name or 'the second'} counted one {numbers}"
                shared = counted(len(mine), "step")
                return f"{steps}, {shared} are {alike}: does one side count from 0, the other from 1?"
    return None


def first_differences(left: Curve, right: Curve, anywhere: bool = False) -> list[Difference]:
    """The first difference beyond rounding of each value, soon after the start or without any difference before it.

    `anywhere`: also later, where rounding may have grown to it.
    """
    found = []
    steps = _common(left, right)
    for name, (one, other), difference in _columns(left, right):
        if (difference > ROUNDING).any():
            at = int(np.argmax(difference > ROUNDING))
            if anywhere or at < SOON or not np.nan_to_num(difference[:at]).any():
                found.append((at, int(steps[at]), name, float(one[at]), float(other[at])))
    return sorted(found)


def _common(one: Curve, other: Curve) -> NDArray[np.int64]:
    return np.intersect1d(one.step, other.step)


def _columns(one: Curve, other: Curve) -> list[tuple[str, tuple[Floats, Floats], Floats]]:
    """Loss and gradient norm at the common steps, and their relative differences: NaN where one was not recorded,
    infinite where one alone is finite."""
    _, left, right = np.intersect1d(one.step, other.step, return_indices=True)
    norms, losses = (one.grad_norm[left], other.grad_norm[right]), (one.loss[left], other.loss[right])
    unrecorded = np.isnan(norms[0]) | np.isnan(norms[1])  # a norm that is not finite is infinity
    columns = [("gradient norm", norms, np.where(unrecorded, np.nan, _relative(*norms)))]
    if one.has_loss and other.has_loss:
        columns.append(("loss", losses, _relative(*losses)))
    return columns


def _relative(one: Floats, other: Floats) -> Floats:
    """0 where neither is finite, infinite where one alone is."""
    finite, also = np.isfinite(one), np.isfinite(other)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        difference = np.abs(one - other) / np.maximum(np.abs(one), np.abs(other))
    return np.where(
        finite & also, np.where(one == other, 0.0, difference), np.where(finite == also, 0.0, np.inf)
    )


def _percent(one: float, other: float) -> str:
    share = 100 * abs(one - other) / max(abs(one), abs(other)) if np.isfinite([one, other]).all() else np.nan
    return f", {share:.2g}%" if np.isfinite(share) else ""
