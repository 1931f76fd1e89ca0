"""A run that was interrupted and resumed is the run that was not, to the bit, on every device that a laptop has."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from harness.launch.local import run_study
from harness.record import Final, RunDirectory
from harness.study import Study, load_study, save_study
from harness.system.errors import HarnessError
from harness.workload.engine import check_evidence
from tests.conftest import StudyFile
from tests.deepspeed.launch.test_local_launch import steps

TRAINING = {
    "steps": 6,
    "micro_batch": 1,
    "sequence_length": 16,
    "learning_rate": 4.0e-3,
    "checkpoint_every": 2,
}


def final(results: Path, run_id: str) -> Final:
    found = RunDirectory(results / "runs" / run_id).status().final
    assert found is not None
    return found


def interrupt(study: Study, whole: Path, cut: Path) -> None:
    """The folder as a kill after step 4 leaves it: checkpoints of steps 2 and 4, and a step that no checkpoint has."""
    shutil.copytree(whole, cut)
    for run in study.runs:
        directory = RunDirectory(cut / "runs" / run.run_id)
        assert (directory.checkpoints / "latest").read_text() == "step4"
        directory.steps_file.write_text("".join(directory.steps_file.read_text().splitlines(True)[:5]))
        directory.update_status(state="interrupted", final=None)


@pytest.mark.slow
@pytest.mark.parametrize(("device", "policy"), [("cpu", "native"), ("virtual", "side-first")])
def test_a_resumed_run_is_the_uninterrupted_one_to_the_bit(
    device: str, policy: str, study_file: StudyFile, tmp_path: Path
) -> None:
    matrix = {"model": "llama2-toy", "variant": "fixed", "shape": "1x2-hpz2", "policy": policy}
    study = load_study(study_file(device=device, training=TRAINING, matrix=matrix))
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    save_study(study, whole)
    run_study(study, whole)
    interrupt(study, whole, cut)
    resumed = run_study(study, cut)
    assert [(status.state, status.attempts) for status in resumed] == [("done", 2)] * len(study.runs)
    for run in study.runs:
        losses = [line["loss"] for line in steps(cut, run.run_id)]
        assert losses == [line["loss"] for line in steps(whole, run.run_id)] and len(losses) == 6
        assert final(cut, run.run_id) == final(whole, run.run_id)


def test_ranks_that_share_gpus_are_no_multi_node_evidence(study_file: StudyFile) -> None:
    run = load_study(study_file(device="cuda")).runs[0]
    check_evidence(run, "nccl")
    with pytest.raises(HarnessError, match=r"its ranks share GPUs here.*give each rank a GPU"):
        check_evidence(run, "gloo")
