"""The byte formulas are those of ZeRO-3 and hpZ, and the audit sets the record beside them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from analysis.audit import formula_inter_bytes, passes, travelling_bytes, volume_bound
from analysis.collect import collect_study
from analysis.summary import summarise
from harness.models import parse_model
from harness.study import Run, Study, load_study
from tests.synthetic import STUDY, write_study

pytestmark = pytest.mark.usefixtures("made_up_patches")


def run(variant: str = "fixed", shape: str = "2x2-hpz2", **training: Any) -> Run:
    content = {**STUDY, "training": {**STUDY["training"], **training}}
    matrix = {"model": "toy", "variant": variant, "shape": shape}
    return Study.model_validate({**content, "matrix": matrix}).runs[-1]


@pytest.mark.parametrize(("accumulation", "bound"), [(1, 1.5), (2, 2.0), (4, 2.4), (8, 8 / 3)])
def test_hpz_saves_what_the_formula_says(accumulation: int, bound: float) -> None:
    zero3 = formula_inter_bytes(run("zero3", "2x2", gradient_accumulation=accumulation))
    hpz = formula_inter_bytes(run(gradient_accumulation=accumulation))
    assert zero3 / hpz == pytest.approx(bound)
    assert volume_bound(accumulation, recompute=False) == pytest.approx(bound)


def test_recomputing_gathers_again() -> None:
    again = {"activation_checkpointing": True}
    ratio = formula_inter_bytes(run("zero3", "2x2", **again)) / formula_inter_bytes(run(**again))
    assert ratio == pytest.approx(volume_bound(1, recompute=True)) == 2.0


def test_one_pass_is_the_ring_over_all_ranks() -> None:
    ours = run("zero3", "2x2")
    size = parse_model(ours.model_spec, "toy").parameters * 2  # bf16, aligned: no padding
    assert travelling_bytes(ours) == size
    assert formula_inter_bytes(ours) == round(3 * size * 3 / 4)


def test_one_node_sends_nothing_out() -> None:
    assert formula_inter_bytes(run(shape="1x4-hpz2")) == 0


def test_a_group_wider_than_a_node_crosses_it() -> None:
    inside, across = run(shape="4x2-hpz2"), run(shape="4x2-hpz4")
    assert passes(inside) == passes(across) == (2, 1)
    assert formula_inter_bytes(across) - formula_inter_bytes(inside) == round(
        travelling_bytes(across) * 3 / 4
    )


def test_the_audit_of_a_study_names_its_runs(tmp_path: Path) -> None:
    write_study(tmp_path)
    summary = summarise(load_study(tmp_path), collect_study(tmp_path))
    (row,) = summary["audit"]
    assert (row["zero3_bytes"], row["hpz_bytes"], row["recorded_ratio"]) == (1000, 1000, 1.0)
    assert row["volume_bound"] == 1.5
    sound = {pair["run_id"] for pair in summary["pairs"] if pair["verdict"] == "exact"}
    assert set(row["run_ids"]) == sound | {pair["baseline_run_id"] for pair in summary["pairs"]}
