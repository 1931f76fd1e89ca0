"""A verdict says what the numbers show: bit-equal, inside the seeds' band, outside it, or no training at all."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.judge.band import Floats, tolerance_band
from analysis.judge.convergence import (
    Curve,
    bootstrap_mean,
    divergence,
    final_difference,
    judge,
)
from harness.study import Rule

RULE = Rule(minimum_seeds=3, stuck_steps=4, final_window=3)
STEPS = 40
NAN, INF = float("nan"), float("inf")


def losses(seed: int = 1, noise: float = 0.02) -> Floats:
    return 2 + 3 * np.exp(-np.arange(STEPS) / 9) + np.random.default_rng(seed).normal(0, noise, STEPS)


def curve(loss: Floats, grad_norm: Floats | None = None) -> Curve:
    return Curve(loss, 0.5 * loss if grad_norm is None else grad_norm)


def changed(loss: Floats, step: int, value: float) -> Floats:
    copy = loss.copy()
    copy[step] = value
    return copy


BASELINE = curve(losses())
BAND = tolerance_band(np.stack([losses(seed) for seed in (1, 2, 3, 4)]), RULE)


def test_bit_equal_curves_are_exact() -> None:
    found = judge(curve(losses()), BASELINE, BAND, RULE)
    assert (found.verdict, found.first_bad_step, found.max_abs_loss_difference) == ("exact", None, 0.0)


@given(st.integers(0, STEPS - 1))
def test_one_bit_anywhere_is_not_exact(step: int) -> None:
    loss = changed(losses(), step, float(np.nextafter(losses()[step], 9)))
    assert judge(curve(loss, BASELINE.grad_norm), BASELINE, BAND, RULE).verdict == "equivalent"
    norms = changed(BASELINE.grad_norm, step, float(np.nextafter(BASELINE.grad_norm[step], 9)))
    found = judge(curve(losses(), norms), BASELINE, BAND, RULE)
    assert (found.verdict, found.first_differing_step) == ("equivalent", step)


def test_without_enough_seeds_what_differs_has_drifted() -> None:
    loss = changed(losses(), 7, losses()[7] + 1e-9)
    found = judge(curve(loss), BASELINE, None, RULE)
    assert (found.verdict, found.first_bad_step) == ("drifted", 7)
    assert "needs 3 sound baseline seeds" in found.reason


def test_outside_the_band_is_drifted_from_the_first_step_outside() -> None:
    loss = losses()
    loss[20:] += 1.0
    found = judge(curve(loss), BASELINE, BAND, RULE)
    assert (found.verdict, found.first_bad_step) == ("drifted", 20)
    assert found.max_abs_loss_difference == pytest.approx(1.0)


@pytest.mark.parametrize(("value", "word"), [(NAN, "NaN"), (INF, "infinite"), (-INF, "infinite")])
def test_a_nonfinite_loss_is_diverged(value: float, word: str) -> None:
    found = judge(curve(changed(losses(), 5, value)), BASELINE, BAND, RULE)
    assert (found.verdict, found.first_bad_step, found.reason) == ("diverged", 5, f"loss is {word}")


def test_a_nonfinite_gradient_norm_alone_is_diverged() -> None:
    found = judge(curve(losses(), changed(BASELINE.grad_norm, 9, NAN)), BASELINE, BAND, RULE)
    assert (found.verdict, found.first_bad_step, found.reason) == ("diverged", 9, "gradient norm is NaN")


@pytest.mark.parametrize("level", [0.0, 11.93])
def test_loss_and_norm_stuck_are_diverged(level: float) -> None:
    loss, norm = losses(), BASELINE.grad_norm.copy()
    loss[10:], norm[10:] = level, 0.0
    found = judge(curve(loss, norm), BASELINE, BAND, RULE)
    assert (found.verdict, found.first_bad_step) == ("diverged", 10)
    assert "stuck" in found.reason


def test_a_loss_that_repeats_while_the_norm_moves_is_not_stuck() -> None:
    loss = losses()
    loss[10:20] = loss[10]
    assert divergence(curve(loss, np.arange(STEPS, dtype=float)), RULE) is None


def test_all_nan_has_no_loss_difference() -> None:
    found = judge(curve(np.full(STEPS, NAN)), BASELINE, BAND, RULE)
    assert (found.first_bad_step, found.max_abs_loss_difference) == (0, None)


@pytest.mark.parametrize("seeds", [1, 2])
def test_too_few_seeds_make_no_band(seeds: int) -> None:
    assert tolerance_band(np.stack([losses(seed) for seed in range(seeds)]), RULE) is None


def test_every_seed_of_the_band_lies_inside_it() -> None:
    assert BAND is not None
    assert all(BAND.first_outside(losses(seed)) is None for seed in (1, 2, 3, 4))
    assert BAND.level == RULE.confidence


def test_an_equivalence_says_what_it_could_have_missed() -> None:
    loss = changed(losses(), 7, losses()[7] + 1e-9)
    found = judge(curve(loss), BASELINE, BAND, RULE)
    assert BAND is not None
    assert (found.verdict, found.smallest_drift) == ("equivalent", BAND.smallest_drift)
    assert f"a loss higher by {BAND.smallest_drift:.2g} over the last half would have shown" in found.reason


def test_the_final_difference_is_paired_by_seed() -> None:
    base = [losses(seed) for seed in (1, 2, 3, 4)]
    found = final_difference([loss + 0.25 for loss in base], base, RULE)
    assert found is not None
    assert found.estimate == pytest.approx(0.25) and found.low == pytest.approx(0.25) and found.n == 4


def test_one_seed_gives_an_estimate_without_interval() -> None:
    found = final_difference([losses()], [losses()], RULE)
    assert found is not None
    assert (found.estimate, found.low, found.high, found.n) == (0.0, None, None, 1)


def test_a_diverged_seed_has_no_final_difference() -> None:
    assert final_difference([changed(losses(), STEPS - 1, NAN)], [losses()], RULE) is None


def test_the_same_values_give_the_same_interval() -> None:
    values = np.array([0.1, 0.4, 0.2, 0.9])
    assert bootstrap_mean(values, 0.95) == bootstrap_mean(values, 0.95)
