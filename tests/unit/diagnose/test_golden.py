"""Golden values, as trainers commit them, are curves."""

from __future__ import annotations

import json

import pytest

from harness.diagnose.read.curves import curves_in


@pytest.mark.parametrize("head", ["", "# config: toy\n# ngpu: 8\n# step loss grad_norm\n"])
def test_a_line_a_step(head: str) -> None:
    (curve,) = curves_in(head + "1 8.02 1.59\n2 7.69 1.47\n3 6.94 1.87\n", "golden.txt")
    assert curve.form == "golden values of torchtitan"
    assert curve.step.tolist() == [1, 2, 3] and curve.loss.tolist() == [8.02, 7.69, 6.94]
    assert curve.grad_norm.tolist() == [1.59, 1.47, 1.87]


@pytest.mark.parametrize("values", [{"0": 10.8, "5": 10.4, "10": 9.9}, [10.8, 10.4, 9.9]])
def test_quantities_by_step(values: object) -> None:
    quantity = {"start_step": 0, "end_step": 10, "step_interval": 5, "values": values}
    (curve,) = curves_in(json.dumps({"lm loss": quantity, "iteration-time": quantity}), "golden.json")
    assert curve.form == "golden values of Megatron-LM"
    assert curve.step.tolist() == [0, 5, 10] and curve.loss.tolist() == [10.8, 10.4, 9.9]


def test_numbers_that_are_no_pairs_stay_a_list() -> None:
    (curve,) = curves_in("2.5 2.4\n2.3 2.2\n", "losses.txt")
    assert curve.loss.tolist() == [2.5, 2.4, 2.3, 2.2]
