"""`hpz run --witness profile` on plain CPU: the run trains as ever and leaves a Chrome trace of its last step."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

from harness.launch.local import run_study
from harness.study import load_study
from tests.conftest import StudyFile


def test_one_step_of_each_run_is_profiled(study_file: StudyFile, tmp_path: Path) -> None:
    study = load_study(study_file(training={"steps": 3, "micro_batch": 1, "sequence_length": 16}))
    statuses = run_study(study, tmp_path / "results", witness="profile")
    assert [status.state for status in statuses] == ["done", "done"]
    for run in study.runs:
        file = tmp_path / "results" / "runs" / run.run_id / "profile-0.json.gz"
        events = json.loads(gzip.decompress(file.read_bytes()))["traceEvents"]
        names = {event.get("name") for event in events}
        assert "aten::mm" in names and any("all_gather" in str(name) for name in names)
