"""The byte formulas are those of ZeRO-3 and hpZ, and the audit sets the record beside them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from analysis.collect.collect import collect_study
from analysis.judge.audit import Sent, formula_bytes, passes, travelling_bytes, volume_bound
from analysis.judge.summary import summarise
from harness.study import Run, Study, load_study, parse_model
from tests.synthetic import STUDY, Curve, as_known, write_study

pytestmark = pytest.mark.usefixtures("made_up_patches")


def run(variant: str = "fixed", shape: str = "2x2-hpz2", **training: Any) -> Run:
    content = {**STUDY, "training": {**STUDY["training"], **training}}
    matrix = {"model": "toy", "variant": variant, "shape": shape}
    return Study.model_validate({**content, "matrix": matrix}).runs[-1]


@pytest.mark.parametrize(("accumulation", "bound"), [(1, 1.5), (2, 2.0), (4, 2.4), (8, 8 / 3)])
def test_hpz_saves_what_the_formula_says(accumulation: int, bound: float) -> None:
    zero3 = formula_bytes(run("zero3", "2x2", gradient_accumulation=accumulation)).inter
    hpz = formula_bytes(run(gradient_accumulation=accumulation)).inter
    assert zero3 / hpz == pytest.approx(bound)
    assert volume_bound(accumulation, recompute=False) == pytest.approx(bound)


def test_recomputing_gathers_again() -> None:
    again = {"activation_checkpointing": True}
    ratio = formula_bytes(run("zero3", "2x2", **again)).inter / formula_bytes(run(**again)).inter
    assert ratio == pytest.approx(volume_bound(1, recompute=True)) == 2.0


def test_one_pass_is_the_ring_over_all_ranks() -> None:
    ours = run("zero3", "2x2")
    size = parse_model(ours.model_spec, "toy").parameters * 2  # bf16, aligned: no padding
    assert travelling_bytes(ours) == size
    each = 3 * size * 3 // 4  # of a node's two edges one leaves it
    assert formula_bytes(ours) == Sent(intra=each, inter=each)


def test_gathers_of_the_hpz_group_stay_in_the_node() -> None:
    ours = run("fixed", "2x2-hpz2")
    size = travelling_bytes(ours)
    world, group = 2 * size * 3 // 4, size // 2
    assert formula_bytes(ours) == Sent(intra=world + 2 * group, inter=world)


def test_one_node_sends_nothing_out() -> None:
    assert formula_bytes(run(shape="1x4-hpz2")).inter == 0
    assert formula_bytes(run(shape="1x4-hpz2")).intra > 0


def test_a_group_wider_than_a_node_crosses_it() -> None:
    inside, across = run(shape="4x2-hpz2"), run(shape="4x2-hpz4")
    assert passes(inside) == passes(across) == (2, 1)
    assert formula_bytes(across).inter - formula_bytes(inside).inter == round(
        travelling_bytes(across) * 3 / 4
    )


def test_the_audit_of_a_study_names_its_runs(tmp_path: Path) -> None:
    write_study(tmp_path)
    summary = summarise(load_study(tmp_path), collect_study(tmp_path))
    (row,) = summary["audit"]
    assert (row["zero3_bytes"], row["hpz_bytes"], row["recorded_ratio"]) == (1000, 1000, 1.0)
    assert (row["zero3_intra_bytes"], row["hpz_intra_bytes"]) == (2000, 2000)
    assert (row["volume_bound"], row["link_gbit_s"], row["wire_ratio"]) == (1.5, 12.5, None)
    assert row["variants"] == ["stock", "unordered", "fixed", "event"]
    trained = {pair["run_id"] for pair in summary["pairs"] if pair["verdict"] != "diverged"}
    assert set(row["run_ids"]) == trained
    assert set(row["baseline_run_ids"]) == {pair["baseline_run_id"] for pair in summary["pairs"]}


def test_variants_that_sent_something_else_have_rows_of_their_own(tmp_path: Path) -> None:
    def curve(run: Run) -> Curve:
        return replace(as_known(run), bytes_inter=900 if run.variant == "event" else 1000)

    write_study(tmp_path, curve)
    rows = summarise(load_study(tmp_path), collect_study(tmp_path))["audit"]
    assert {tuple(row["variants"]): row["hpz_bytes"] for row in rows} == {
        ("stock", "unordered", "fixed"): 1000,
        ("event",): 900,
    }


def test_link_seconds_are_those_of_the_studys_link(tmp_path: Path) -> None:
    matrix = {"model": "toy", "variant": "fixed", "shape": "2x2-hpz2", "link": ["50mbit", "1gbit"]}
    write_study(tmp_path, device="cpu", baseline={"variant": "zero3"}, matrix=matrix)
    rows = summarise(load_study(tmp_path), collect_study(tmp_path))["audit"]
    assert [(row["link"], row["hpz_link_seconds"]) for row in rows] == [
        ("50mbit", 1000 * 8 / 50e6),
        ("1gbit", 1000 * 8 / 1e9),
    ]
