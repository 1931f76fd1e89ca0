"""What an array task does, with a made-up srun in place of SLURM's."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.launch.profile import Profile
from harness.launch.task import Allocation, Driver
from harness.record import Final, RunDirectory
from harness.study import Study, load_study
from tests.conftest import StudyFile
from tests.submitted import PROFILE, submitted


@pytest.fixture
def study(study_file: StudyFile) -> Study:
    return load_study(study_file(matrix={"model": "llama2-toy", "variant": "zero3", "shape": "2x2"}))


def driver(study: Study, results: Path, srun: str, profile: Profile = PROFILE) -> Driver:
    """The task of the study's only group; `srun` is a shell line that is run in place of the ranks."""
    (sent,) = submitted(study, results, profile)
    allocation = Allocation("7_0", 0, "n[0-1]", "7")
    return Driver(sent.folder, sent.tasks[0], profile, ["sh", "-c", srun], allocation)


def run_directory(study: Study, results: Path) -> RunDirectory:
    return RunDirectory(results / "runs" / study.runs[0].run_id)


def test_a_run_whose_job_died_after_the_final_record_is_done_at_the_next_attempt(
    study: Study, tmp_path: Path
) -> None:
    task = driver(study, tmp_path, "echo started >&2; exit 1")
    final = Final(steps=4, skipped_steps=0, shards_sha256="0" * 64)
    directory = run_directory(study, tmp_path)
    directory.update_status(state="running", attempts=1, final=final.model_dump())
    assert task.run() == 0
    assert (directory.status().state, directory.status().attempts) == ("done", 1)


def test_ranks_that_end_well_without_a_final_record_fail_the_run(study: Study, tmp_path: Path) -> None:
    assert driver(study, tmp_path, "exit 0").run() == 1
    status = run_directory(study, tmp_path).status()
    assert status.state == "failed" and "none wrote the final record" in (status.reason or "")
