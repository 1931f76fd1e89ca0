"""Two sides of curves, each one run or several seeds, whoever logged them: alike, or not, and what could be missed.

The readers are those of `hpz triage`, the band and the verdicts those of studies. Without a band (fewer than three
seeds on side A) only equal digits, rounding, or a tolerance that the user names can be told.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from analysis.judge.band import FEWEST_SEEDS, Band, Floats, tolerance_band
from analysis.judge.convergence import Curve, divergence, judge
from analysis.judge.outside import at_rows, broken, ended_early, up_to
from harness.diagnose.against import ROUNDING, alike, differing, first_differences, off_by_one
from harness.diagnose.curve import Curve as Logged
from harness.study import Rule
from harness.system.errors import HarnessError
from harness.words import counted

Steps = NDArray[np.int64]
Verdict = Literal["exact", "rounding", "within", "equivalent", "unfinished", "drifted", "diverged"]
SAME: tuple[Verdict, ...] = ("exact", "rounding", "within", "equivalent")
WORST: tuple[Verdict, ...] = (*SAME, "unfinished", "drifted", "diverged")
ENOUGH_DIGITS = 7  # after the point; a curve with fewer was printed, and the other is rounded to as many


@dataclass(frozen=True)
class One:
    """What was found of one curve of side B; steps are the curves' own numbers."""

    name: str
    verdict: Verdict
    reason: str
    first_bad_step: int | None
    largest_difference: float | None  # of the loss, at a common step


@dataclass(frozen=True)
class Comparison:
    """The answer: the worst verdict over the curves of side B."""

    verdict: Verdict
    same: bool
    steps: int  # that all curves have
    seeds: tuple[int, int]
    smallest_drift: float | None  # of an equivalence, as in summary.json
    curves: tuple[One, ...]
    notes: tuple[str, ...]

    def record(self) -> dict[str, Any]:
        return asdict(self)


def compare(
    a: Sequence[Logged], b: Sequence[Logged], within: float | None = None, last: int | None = None
) -> Comparison:
    """Hold each curve of `b` against the curves of `a`. Raises HarnessError where they cannot be compared.

    `within`: relative difference of the loss that the user takes for none, at every step. `last`: the step up to which
    they are compared; without it a curve of `b` must go as far as those of `a`.
    """
    rule = Rule(confidence=1 - 0.05 / len(b))  # 5 % false alarms over all curves of side B
    a, b = up_to(a, last), up_to(b, last)
    left, right, steps, notes = _aligned(a, b)
    for one, whole in zip(left, a, strict=True):
        if bad := broken(whole, rule):
            raise HarnessError(
                f"side A diverged itself, first at step {bad.step}: {bad.reason}; name a sound run"
            )
        if common := divergence(one, rule):
            raise HarnessError(
                f"side A diverged itself, first at step {steps[common[0]]}: {common[1]}; name a sound run"
            )
    band = tolerance_band(np.stack([one.loss for one in left]), rule) if within is None else None
    names = [one.name or f"curve {place}" for place, one in enumerate(b, 1)]
    found = [
        _of_all_steps(_one(name, one, logged, left, a, band, within, rule, steps), logged, a, rule)
        for name, one, logged in zip(names, right, b, strict=True)
    ]
    verdict = max((one.verdict for one in found), key=WORST.index)
    missed = band.smallest_drift if band and verdict == "equivalent" else None
    shifted = [
        off_by_one(logged, a) for one, logged in zip(found, b, strict=True) if one.verdict == "drifted"
    ]
    notes += [said for said in shifted if said]
    if verdict == "rounding":
        notes.append(f"drifts of the loss below {ROUNDING:.2%} pass as rounding; --within asks for less")
    if band is None and within is None and verdict in ("rounding", "drifted"):
        notes.append(
            f"{FEWEST_SEEDS} or more seeds on side A (--a) tell what seeds alone do, and what was missed"
        )
    return Comparison(
        verdict, verdict in SAME, len(steps), (len(a), len(b)), missed, tuple(found), tuple(notes)
    )


def _of_all_steps(one: One, logged: Logged, a: Sequence[Logged], rule: Rule) -> One:
    """What was found at the common steps, but for a curve that broke at any step, or ended before those of A."""
    if bad := broken(logged, rule, zeros=all((kept.loss != 0).all() for kept in a)):
        return replace(one, verdict="diverged", reason=bad.reason, first_bad_step=bad.step)
    goes_on = ended_early(logged, a)
    if goes_on is None or one.verdict not in SAME:
        return one
    end = int(logged.step[-1])
    reason = (
        f"ends at step {end}, and side A goes on to {goes_on}: did it die there? So far {one.verdict}; "
        f"--up-to {end} compares these steps alone"
    )
    return replace(one, verdict="unfinished", reason=reason, first_bad_step=None)


def _one(
    name: str,
    run: Curve,
    logged: Logged,
    left: Sequence[Curve],
    a: Sequence[Logged],
    band: Band | None,
    within: float | None,
    rule: Rule,
    steps: Steps,
) -> One:
    found = [judge(run, one, band, rule) for one in left]
    nearest = min(found, key=lambda one: (one.verdict != "exact", one.max_abs_loss_difference or 0.0))
    at = None if nearest.first_bad_step is None else int(steps[nearest.first_bad_step])
    largest = nearest.max_abs_loss_difference
    if nearest.verdict in ("exact", "diverged") or band is not None:
        reason = nearest.reason
        if nearest.verdict == "exact":
            reason = f"the same in all digits of {counted(len(steps), 'common step')}"
        return One(name, nearest.verdict, reason, at, largest)
    if within is not None:
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            off = np.min([np.abs(run.loss - one.loss) / np.abs(one.loss) for one in left], axis=0)
        bad = np.flatnonzero(~(off <= within))
        if not bad.size:
            return One(name, "within", f"the loss is off by at most {100 * off.max():.2g}%", None, largest)
        reason = f"the loss is off by {100 * off[bad[0]]:.2g}%, more than {100 * within:.2g}%"
        return One(name, "drifted", reason, int(steps[bad[0]]), largest)
    against = min((first_differences(one, logged) for one in a), key=len)
    if against:
        return One(name, "drifted", f"more than rounding: {differing(against)}", against[0][1], largest)
    late = min((first_differences(one, logged, anywhere=True) for one in a), key=len)
    if late:
        reason = f"{differing(late)}; rounding can grow to that, and so can a fault: only seeds tell (--a)"
        return One(name, "drifted", reason, late[0][1], largest)
    return One(name, "rounding", alike(a[0], logged), None, largest)


def _aligned(a: Sequence[Logged], b: Sequence[Logged]) -> tuple[list[Curve], list[Curve], Steps, list[str]]:
    """The curves at the steps that all have, as the judge takes them; what was rounded is said."""
    for side, one in (*(("A", one) for one in a), *(("B", one) for one in b)):
        if not len(one) or not one.has_loss:
            why = f": {'; '.join(one.notes)}" if one.notes else "; hpz triage says what it holds"
            raise HarnessError(
                f"{one.name or f'side {side}'} (side {side}) has no training loss to compare{why}"
            )
    curves = [*a, *b]
    steps = curves[0].step
    for one in curves[1:]:
        steps = np.intersect1d(steps, one.step)
    if not len(steps):
        spans = ", ".join(f"{one.step[0]} to {one.step[-1]}" for one in curves[:4])
        shifted = next((said for one in b if (said := off_by_one(one, a))), "name runs that logged the same")
        raise HarnessError(f"the curves have no step in common (steps {spans}); {shifted}")
    longest, shortest = max(len(one) for one in curves), min(len(one) for one in curves)
    if len(steps) == 1 < shortest:
        raise HarnessError(
            f"step {steps[0]} alone is common to all curves, which tells nothing; name runs that logged the same steps"
        )
    notes = [f"{len(steps)} of {longest} steps are common to all"] if len(steps) < longest else []
    digits = min(_digits(one.loss) for one in curves)
    rounded = digits < ENOUGH_DIGITS and any(_digits(one.loss) > digits for one in curves)
    if rounded:
        notes.append(
            f"losses are compared in {counted(digits, 'digit')} after the point, as the shortest are logged"
        )
    norms = not any(np.isnan(_at(one, steps).grad_norm).any() for one in curves)
    taken = [_judged(_at(one, steps), digits if rounded else None, norms) for one in curves]
    return taken[: len(a)], taken[len(a) :], steps, notes


def _at(one: Logged, steps: Steps) -> Logged:
    return at_rows(one, np.searchsorted(one.step, steps))


def _judged(one: Logged, digits: int | None, norms: bool) -> Curve:
    """Without gradient norms on all sides, norms that never repeat, so that equal printed losses are not stuck."""
    loss = one.loss
    if digits is not None:
        with np.errstate(over="ignore", invalid="ignore"):
            rounded = np.round(loss, digits)
        loss = np.where(np.isfinite(rounded), rounded, loss)  # one too large to be rounded is as it is
    return Curve(loss, one.grad_norm if norms else np.arange(len(loss), dtype=float))


def _digits(values: Floats) -> int:
    """Most digits after the point that a value needs, up to 17; so many were logged."""
    texts = [np.format_float_positional(value, trim="-") for value in values if np.isfinite(value)]
    return max((len(text.partition(".")[2]) for text in texts), default=0)
