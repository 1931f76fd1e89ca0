"""Two runs of the same settings, seed and data: what their difference says."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from harness.diagnose.cases import Case, Known, case_of
from harness.diagnose.curve import Curve, curve_of, empty_curve
from harness.diagnose.show import triage_lines
from harness.diagnose.triage import Triage, triage

LOSSES = [2.31, 1.84, 0.93, 0.71, 0.52, 0.44]
NORMS = [18.2, 41.0, 13.5, 8.8, 5.9, 4.3]
STAGE_2 = {"bf16": {"enabled": True}, "zero_optimization": {"stage": 2, "overlap_comm": True}}


def curve(losses: list[float], norms: list[float] | None = None) -> Curve:
    rows = [{"step": step, "loss": loss} for step, loss in enumerate(losses, 1)]
    return curve_of(
        [row | {"grad_norm": norm} for row, norm in zip(rows, norms, strict=True)] if norms else rows, "here"
    )


def judged(first: Curve, second: Curve, known: Known | None = None) -> Triage:
    one = case_of(first, known.setup(), "here") if known else Case(source="here", curve=first)
    return triage(replace(one, other=second))


def test_a_difference_beyond_rounding_is_told_by_its_first_step() -> None:
    other = curve([2.31, 1.84, 1.12, 0.69, 0.5, 0.4], [18.2, 30.1, 11.9, 8.7, 5.7, 4.2])
    found = judged(curve(LOSSES, NORMS), other)
    assert found.verdict == "broken"
    assert "the gradient norm first at step 2 (41 against 30.1, 27%)" in found.signs["runs differ"]
    assert "the loss first at step 3 (0.93 against 1.12, 17%)" in found.signs["runs differ"]


def test_runs_that_differ_where_gradients_may_race_name_the_race() -> None:
    found = judged(
        curve(LOSSES), curve([2.31, 1.84, 1.12, *LOSSES[3:]]), Known(config=STAGE_2, release="0.14.2")
    )
    assert (found.fault, found.sure) == ("bucket reused", "likely")


def test_each_other_possibility_says_what_to_do_first() -> None:
    hpz = {"bf16": {"enabled": True}, "zero_optimization": {"stage": 3, "zero_hpz_partition_size": 4}}
    known = Known(config=hpz, release="0.13.2", world_size=8, ranks_per_node=4)
    printed = " ".join(" ".join(triage_lines(triage(case_of(empty_curve(), known.setup(), "here")))).split())
    assert "stopped: the training has stopped moving (5 points); first: py-spy dump on every rank" in printed


def test_a_loss_that_only_one_run_loses_is_a_difference() -> None:
    found = judged(curve(LOSSES), curve([*LOSSES[:4], math.nan, math.nan]))
    assert "the loss first at step 5 (0.52 against nan)" in found.signs["runs differ"]


@pytest.mark.parametrize(
    ("second", "said"),
    [
        (LOSSES, "the same in all digits of 6 common steps"),
        ([2.31, 1.841, 0.9304, *LOSSES[3:]], "at most 0.054% in 6 common steps: rounding"),
    ],
)
def test_rounding_is_no_fault(second: list[float], said: str) -> None:
    found = judged(curve(LOSSES), curve(second))
    assert found.verdict == "healthy"
    assert any(said in note for note in found.notes)


def test_rounding_that_grows_over_many_steps_is_no_finding() -> None:
    losses = [2.0] * 40
    found = judged(curve(losses), curve([2.0 * (1 + 0.0002 * step) for step in range(40)]))
    assert "runs differ" not in found.signs


def test_a_first_step_that_differs_asks_for_the_same_seed() -> None:
    found = judged(curve(LOSSES), curve([2.9, *LOSSES[1:]]))
    assert "seed and data are the same" in found.signs["runs differ"]


def test_runs_without_a_common_step_are_not_compared() -> None:
    later = curve_of([{"step": 90, "loss": 0.1}], "here")
    assert "the second run has no step in common with the first" in judged(curve(LOSSES), later).notes


def test_a_run_without_losses_has_none_that_jump() -> None:
    norms = curve_of([{"step": step, "grad_norm": norm} for step, norm in enumerate(NORMS)], "here")
    assert "jumps about" not in triage(Case(source="here", curve=norms)).signs


def test_a_second_run_that_counts_from_0_is_said_to_be_the_same_when_shifted() -> None:
    here, there = ([{"step": n, "loss": loss} for n, loss in enumerate(LOSSES, first)] for first in (1, 0))
    case = Case(source="here", curve=curve_of(here, "here"), other=curve_of(there, "there"))
    said = "with the steps of the second counted one higher, 6 steps are the same: does one side count from 0"
    assert any(said in note for note in triage(case).notes)
