"""Throughput is stated where time is time, against a peak where there is one, and apart by all that is swept."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from analysis.judge.speed import settings_apart
from analysis.judge.summary import summarise_folder
from analysis.page.grids import grids
from harness.record import RunDirectory
from harness.system.whole_file import write_json
from tests.pretraining import sweep, write_sweep
from tests.synthetic import write_study

pytestmark = pytest.mark.usefixtures("made_up_patches")

Small = Callable[..., dict[str, Any]]
ONE = {"model": "llama2-7b", "variant": "event", "shape": "2x8-hpz8"}


@pytest.fixture
def small(tmp_path: Path) -> Small:
    """The summary of a small sweep, with keys of the study changed and, afterwards, of each run.json."""

    def summary(record: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
        study = sweep(12, ("llama2-7b",), **{"matrix": ONE, **changes})
        write_sweep(tmp_path, study)
        for run in study.runs if record else ():
            file = RunDirectory(tmp_path / "runs" / run.run_id).run_file
            write_json(file, {**json.loads(file.read_text()), **(record or {})})
        return summarise_folder(tmp_path)

    return summary


def test_the_virtual_device_has_no_throughput(tmp_path: Path) -> None:
    write_study(tmp_path)
    assert summarise_folder(tmp_path)["throughput"] is None


def test_a_cpu_has_rates_and_no_peak(tmp_path: Path) -> None:
    matrix = {"model": "toy", "variant": "event", "shape": "2x2-hpz2"}
    write_study(tmp_path, device="cpu", baseline={}, matrix=[matrix])
    record = summarise_folder(tmp_path)["throughput"]
    first = record["runs"][0]
    assert first["tokens_per_second"] == pytest.approx(256 / 0.1)
    assert first["tokens_per_second_per_rank"]["estimate"] == pytest.approx(64 / 0.1)
    assert (first["mfu"], first["memory"], first["split"]) == (None, None, None)
    assert first["why_no_mfu"] == "device cpu has no peak to hold it against"


def test_a_card_whose_peak_is_not_known_has_tflops_without_mfu(small: Small) -> None:
    first = small(record={"gpu": "Somebody's Card"})["throughput"]["runs"][0]
    assert first["mfu"] is None and first["model_tflops_per_rank"] > 0
    assert 'the peak of "Somebody\'s Card" is not known' in first["why_no_mfu"]


def test_the_studys_card_stands_in_where_a_run_recorded_none(small: Small) -> None:
    first = small(record={"gpu": None}, gpu="h100-sxm-80gb")["throughput"]["runs"][0]
    assert first["peak"]["card"] == "h100-sxm-80gb" and first["mfu"] is not None


def test_ranks_that_may_share_a_card_have_no_mfu(small: Small) -> None:
    first = small(virtual_nodes=True)["throughput"]["runs"][0]
    assert (first["evidence"], first["mfu"]) == ("one-gpu", None)
    assert first["why_no_mfu"] == "ranks of virtual nodes may share a card"


def test_with_fewer_than_three_seeds_the_interval_is_that_of_steps(small: Small) -> None:
    groups = small(matrix={**ONE, "seed": [1, 2]})["throughput"]["groups"]
    assert [group["interval_over"] for group in groups] == ["blocks", "blocks"]
    assert groups[0]["tokens_per_second_per_rank"]["n"] == 2 * 7  # the 7 steady steps of each


def test_runs_are_told_apart_by_every_axis_that_is_swept(small: Small) -> None:
    live = "deepspeed.zero_optimization.stage3_max_live_parameters"
    matrix = {**ONE, "learning_rate": [1e-4, 3e-4], live: [10_000_000, 20_000_000]}
    summary = small(matrix=matrix)
    axes = [pair["axes"] for pair in summary["pairs"]]
    assert {tuple(one.values()) for one in axes} == {
        (rate, value) for rate in (1e-4, 3e-4) for value in (10_000_000, 20_000_000)
    }
    assert len(summary["groups"]) == 4
    assert len({grid.title for grid in grids(summary)}) == 4
    words = settings_apart(summary["throughput"]["groups"])
    assert "learning_rate=0.0003, stage3_max_live_parameters=20000000" in words
    assert len(set(words)) == 4


def test_a_constant_global_batch_needs_no_word(small: Small) -> None:
    shapes = ["2x8-hpz8", "3x8-hpz8"]
    groups = small(matrix={**ONE, "shape": shapes})["throughput"]["groups"]
    assert len({group["gradient_accumulation"] for group in groups}) == 2
    assert set(settings_apart(groups)) == {""}
