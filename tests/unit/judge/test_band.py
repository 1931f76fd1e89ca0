"""A band holds one more seed at all steps together, and says what an equivalence could have missed."""

from __future__ import annotations

import numpy as np
import pytest

from analysis.judge.band import factor, noise, smallest_drift, spikiness, tolerance_band
from benchmarks.verdicts import KINDS, count
from harness.study import Rule

RULE = Rule(minimum_seeds=3)
GAUSSIAN = [kind for kind in KINDS if not kind.startswith("spikes")]


def test_verdicts_on_planted_pairs_are_right_as_often_as_they_say() -> None:
    """A sample of benchmarks/verdicts.py, whose whole table is in docs/explanation/statistics.md."""
    random = np.random.default_rng(1)
    found = [count(kind, seeds, 30, 5, random) for kind in GAUSSIAN for seeds in (3, 5)]
    # Of 70 pairs, a rate of 5 % passes 10 less often than once in 1,000.
    assert sum(one.false_alarms for one in found) <= 10
    assert sum(one.missed for one in found) <= 10


def test_the_spikier_the_seeds_the_wider_the_band() -> None:
    random = np.random.default_rng(7)
    white, spikes = random.standard_normal((5, 60)), random.standard_t(3, (5, 60))
    assert spikiness(white) < spikiness(spikes) == 1
    assert spikiness(np.ones((3, 10))) == 0, "equal seeds have no deviations"
    bands = [tolerance_band(losses, RULE) for losses in (white, spikes / spikes.std() * white.std())]
    widths = [band.half_width.mean() for band in bands if band is not None]
    assert widths[1] > 1.3 * widths[0]


def test_more_seeds_and_quieter_ones_show_a_smaller_drift() -> None:
    random = np.random.default_rng(2)
    losses = 3 + 0.1 * random.standard_normal((9, 40))
    assert smallest_drift(losses, 0.95) < smallest_drift(losses[:3], 0.95)
    assert smallest_drift(3 + 0.1 * (losses - 3), 0.95) == pytest.approx(0.1 * smallest_drift(losses, 0.95))


def test_a_lasting_offset_between_seeds_hides_more_than_noise_that_comes_and_goes() -> None:
    random = np.random.default_rng(3)
    offset, white = (noise(random, (8, 60), memory) for memory in (np.inf, 0.0))
    assert smallest_drift(offset, 0.95) / offset.std() > 1.5 * smallest_drift(white, 0.95) / white.std()


def test_the_stated_drift_leaves_the_band_and_a_tenth_of_it_does_not() -> None:
    random = np.random.default_rng(5)
    losses = 2 + 0.05 * random.standard_normal((6, 50))
    band = tolerance_band(losses[:-1], RULE)
    assert band is not None
    last = np.arange(50) >= 25
    assert band.first_outside(losses[-1] + band.smallest_drift * last) is not None
    assert band.first_outside(losses[-1] + 0.1 * band.smallest_drift * last) is None


def test_longer_runs_and_fewer_seeds_ask_for_wider_bands() -> None:
    assert factor(5, 20, 0.95) < factor(5, 400, 0.95)
    assert factor(5, 20, 0.95) < factor(3, 20, 0.95)
    assert factor(5, 20, 0.95) < factor(5, 20, 0.99)


def test_equal_seeds_make_a_band_without_a_width() -> None:
    """Nothing varies, so whatever differs has left it."""
    losses = np.tile(np.linspace(3, 2, 12), (3, 1))
    band = tolerance_band(losses, RULE)
    assert band is not None and band.first_outside(losses[0]) is None
    assert band.first_outside(losses[0] + 1e-6) == 0 and band.smallest_drift < 1e-6
