"""Before timed runs, as on a GPU, every warm process is up; none imports while a run is measured."""

from __future__ import annotations

from pathlib import Path

from harness.launch.launcher import Launcher
from harness.record import RunDirectory
from harness.study import load_study
from tests.conftest import StudyFile


def test_all_warm_processes_are_ready_before_the_first_run(study_file: StudyFile, tmp_path: Path) -> None:
    matrix = {"model": "llama2-toy", "variant": ["fixed", "unordered"], "shape": "2x2-hpz2"}
    study = load_study(study_file(matrix=matrix))
    directories = {run.run_id: RunDirectory(tmp_path / "runs" / run.run_id) for run in study.runs}
    for run in study.runs:
        directories[run.run_id].create(run)
    with Launcher(study, directories, lambda progress: None) as launcher:
        launcher._warm_all(study.runs)
        assert len(launcher.servers) == 2  # zero3 and fixed run DeepSpeed as it is
        assert all(server.ready for server in launcher.servers.values())
