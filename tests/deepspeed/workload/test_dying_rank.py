"""What `latest` names is whole, whoever dies while it is written."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from harness.record import RunDirectory
from harness.study import load_study
from harness.system.child import run_to_end
from harness.system.errors import RunFailed
from harness.system.places import REPOSITORY
from harness.variants import Variant, overlay_path
from tests.conftest import StudyFile


@pytest.mark.slow
def test_a_rank_that_is_killed_while_it_saves_leaves_the_checkpoint_before(
    study_file: StudyFile, tmp_path: Path
) -> None:
    training = {"steps": 6, "micro_batch": 1, "sequence_length": 16, "checkpoint_every": 2}
    matrix = {"model": "llama2-toy", "variant": "zero3", "shape": "1x2"}
    (run,) = load_study(study_file(device="cpu", training=training, matrix=matrix)).runs
    directory = RunDirectory(tmp_path / run.run_id)
    directory.create(run)
    path = os.pathsep.join([str(overlay_path(Variant.parse(run.variant), run.release)), str(REPOSITORY)])
    words = ["-m", "tests.deepspeed.workload.dying_rank", str(directory.path), "1", "step4"]
    with pytest.raises(RunFailed):
        run_to_end([sys.executable, *words], {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}, "ranks failed")
    assert (directory.checkpoints / "latest").read_text() == "step2"
    assert len(list((directory.checkpoints / "step2").glob("*optim_states.pt"))) == 2
