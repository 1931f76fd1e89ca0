"""Step-time ratios are paired, leave the warm-up out and carry an interval."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
import pytest
from scipy.signal import lfilter

from analysis.judge.band import Floats
from analysis.judge.throughput import MAX_BLOCKS, block_length, block_ratios, outliers, step_seconds_ratio
from analysis.page.tables import interval
from harness.study import Rule

RULE = Rule(warmup_steps_dropped=5)
RANDOM = np.random.default_rng(3)


def test_the_interval_holds_the_ratio_as_often_as_it_says() -> None:
    holds = 0
    for _ in range(100):
        base = RANDOM.lognormal(-2, 0.1, 305)
        found = step_seconds_ratio(1.2 * base * RANDOM.lognormal(0, 0.02, 305), base, RULE)
        assert found is not None and found.low is not None and found.high is not None
        holds += found.low < 1.2 < found.high
    assert holds >= 85


def alike(steps: int, previous: float) -> Floats:
    """Log step times of which each resembles the one before."""
    return np.asarray(lfilter([1.0], [1.0, -previous], RANDOM.normal(0, 0.05, steps)))


def test_the_interval_holds_where_neighbouring_steps_are_alike() -> None:
    holds = 0
    for _ in range(100):
        found = step_seconds_ratio(1.2 * np.exp(alike(405, 0.8)), np.ones(405), RULE)
        assert found is not None and found.low is not None and found.high is not None
        holds += found.low < 1.2 < found.high
    assert holds >= 85


@pytest.mark.parametrize(("previous", "least", "most"), [(0.0, 1, 4), (0.5, 4, 16), (0.9, 15, 60)])
def test_blocks_are_as_long_as_steps_stay_alike(previous: float, least: int, most: int) -> None:
    lengths = [block_length(alike(1000, previous)) for _ in range(20)]
    assert least <= np.median(lengths) <= most


def test_a_short_run_says_that_its_interval_is_too_narrow() -> None:
    times = RANDOM.lognormal(-2, 0.1, 300)
    short, long = (step_seconds_ratio(times[:n], times[:n][::-1].copy(), RULE) for n in (12, 300))
    assert short is not None and short.too_narrow and short.low is not None
    assert "too few blocks to use the interval" in interval(asdict(short))
    assert long is not None and not long.too_narrow


def test_warm_up_steps_do_not_count() -> None:
    base, run = np.full(20, 0.1), np.full(20, 0.1)
    run[:5] = 60.0
    found = step_seconds_ratio(run, base, RULE)
    assert found is not None
    assert found.median == 1.0


def test_a_run_of_nothing_but_warm_up_has_no_ratio() -> None:
    assert step_seconds_ratio(np.full(5, 0.1), np.full(5, 0.1), RULE) is None


def test_two_steps_give_an_estimate_without_interval() -> None:
    found = step_seconds_ratio(np.full(7, 0.2), np.full(7, 0.1), RULE)
    assert found is not None
    assert (found.median, found.low, found.n) == (2.0, None, 2)


def test_a_time_that_is_not_a_number_has_no_ratio() -> None:
    assert block_ratios(np.full(20, np.nan), np.full(20, 0.1), RULE).size == 0


def test_an_outlier_is_shown() -> None:
    ratios = np.array([1.0, 1.01, 0.99, 1.02, 0.98, 3.0])
    assert outliers(ratios).tolist() == [False] * 5 + [True]
    assert not outliers(np.ones(4)).any()
    assert outliers(np.empty(0)).size == 0


def test_a_ratio_tells_its_spread_and_outliers() -> None:
    run, base = np.full(45, 0.1), np.full(45, 0.1)
    base *= RANDOM.lognormal(0, 0.01, 45)
    run[30:33] = 5.0
    found = step_seconds_ratio(run, base, RULE)
    assert found is not None
    assert found.outliers == len(found.outlier_ratios) >= 1 and max(found.outlier_ratios) > 10
    assert found.spread < 0.1 and found.median == pytest.approx(1.0, abs=0.02)


@pytest.mark.parametrize("length", [6, 35, 1000])
def test_blocks_never_outnumber_steps(length: int) -> None:
    times = RANDOM.lognormal(-2, 0.1, length)
    assert len(block_ratios(times, times, RULE)) == min(
        MAX_BLOCKS, length - 5
    )  # equal ratios: nothing is alike
