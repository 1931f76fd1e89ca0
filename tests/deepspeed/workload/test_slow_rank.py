"""All ranks take as long for a step as the slowest; which one it is, the run says itself."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from harness.record import RunDirectory
from harness.record.ranks import paces, read_windows, slow_ranks
from harness.study import load_study
from harness.system.child import run_to_end
from harness.system.node import node_name
from harness.system.places import REPOSITORY
from harness.variants import Variant, overlay_path
from tests.conftest import StudyFile


@pytest.mark.slow
def test_the_rank_that_the_others_wait_for_is_named(study_file: StudyFile, tmp_path: Path) -> None:
    training = {"steps": 40, "micro_batch": 1, "sequence_length": 16}
    matrix = {"model": "llama2-toy", "variant": "fixed", "shape": "1x3-hpz3"}
    study = load_study(study_file(device="cpu", training=training, matrix=matrix))
    run = next(run for run in study.runs if run.variant == "fixed")
    directory = RunDirectory(tmp_path / run.run_id)
    directory.create(run)
    path = os.pathsep.join([str(overlay_path(Variant.parse(run.variant), run.release)), str(REPOSITORY)])
    words = ["-m", "tests.deepspeed.workload.slow_rank", str(directory.path), "1"]
    run_to_end([sys.executable, *words], {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}, "ranks failed")

    windows = read_windows(directory.ranks_file)
    assert [(w.from_step, w.until_step) for w in windows] == [(step, step + 2) for step in range(0, 40, 2)]
    assert windows[0].nodes == (node_name(),) * 3
    (slow,) = slow_ranks(paces(windows, warmup=2))
    assert slow.ranks == (1,) and slow.ratio > 1.2
    for line in map(json.loads, directory.steps_file.read_text().splitlines()):
        assert 0 < line["exposed_comm_seconds"] < line["step_seconds"]
