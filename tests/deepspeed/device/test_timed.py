"""Policy `timed` on real DeepSpeed ranks: ordered variants stay exact, and the race strikes when timing says so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from harness.launch.local import run_study
from harness.study import load_study, save_study
from tests.conftest import StudyFile

pytestmark = pytest.mark.slow
BUSY = {"steps": 3, "micro_batch": 16, "sequence_length": 64, "learning_rate": 4.0e-3}


def losses(results: Path, run_id: str) -> list[Any]:
    lines = (results / "runs" / run_id / "steps.jsonl").read_text().splitlines()
    return [json.loads(line)["loss"] for line in lines]


def test_the_race_strikes_at_the_time_of_large_tensors_and_not_of_small_ones(
    study_file: StudyFile, tmp_path: Path
) -> None:
    """Much compute for each byte, and a fast network: the copy is late, the all-gather is not."""
    small, large = (f"timed({scale},infiniband-800gbps)" for scale in (1, 100000))
    matrix = [
        {
            "model": "llama2-toy",
            "variant": "unordered",
            "shape": "2x2-hpz2",
            "policy": [small, large],
        },
        {"model": "llama2-toy", "variant": "event", "shape": "2x2-hpz2", "policy": large},
    ]
    baseline = {"variant": "zero3", "policy": "eager"}
    study = load_study(study_file(device="virtual", training=BUSY, matrix=matrix, baseline=baseline))
    save_study(study, tmp_path)
    assert {status.state for status in run_study(study, tmp_path)} == {"done"}
    found = {(run.variant, run.policy): losses(tmp_path, run.run_id) for run in study.runs}
    exact = found["zero3", "eager"]
    assert found["event", large] == exact
    assert found["unordered", small] == exact
    assert found["unordered", large] != exact
