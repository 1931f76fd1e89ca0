"""A stall knows streams and kinds of op alone; that it holds up hpZ's copy too is shown here, on real DeepSpeed."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from harness.launch.local import run_study
from harness.record import RunDirectory
from harness.study import load_study
from harness.system.places import REPOSITORY
from harness.variants import Variant, overlay_path
from tests.conftest import StudyFile
from tests.gpu.ranks import run_ranks

STEPS, PARAMETERS = 3, 21  # of llama2-toy


def losses(directory: RunDirectory) -> list[float]:
    return [json.loads(line)["loss"] for line in directory.steps_file.read_text().splitlines()]


@pytest.mark.slow
def test_every_secondary_copy_is_held_up_and_no_loss_changes(study_file: StudyFile, tmp_path: Path) -> None:
    training = {"steps": STEPS, "micro_batch": 1, "sequence_length": 16}
    study = load_study(study_file(training=training))
    run = next(run for run in study.runs if run.variant == "fixed")
    run_study(study, tmp_path / "plain")
    directory = RunDirectory(tmp_path / "stalled" / run.run_id)
    directory.create(run)
    path = os.pathsep.join([str(overlay_path(Variant.parse(run.variant), run.release)), str(REPOSITORY)])
    first, *_ = run_ranks(
        ["tests.deepspeed.device.stalled_rank", str(directory.path)], world=4, PYTHONPATH=path
    )
    stalls = json.loads(first.strip().splitlines()[-1])
    assert stalls["_partition_param_sec"] == STEPS * PARAMETERS
    assert sum(stalls.values()) > stalls["_partition_param_sec"]  # others are held up as well
    assert losses(directory) == losses(RunDirectory(tmp_path / "plain" / "runs" / run.run_id))
