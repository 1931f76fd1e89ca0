"""The local launcher over real DeepSpeed ranks: it finishes, resumes, and takes a broken run down with its reasons."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from harness.launch.local import run_study
from harness.record import RunDirectory, Status
from harness.study import REPOSITORY, Study, load_study, save_study
from tests.conftest import StudyFile


def run(file: Path, results: Path) -> tuple[Study, list[Status]]:
    study = load_study(file)
    save_study(study, results)
    return study, run_study(study, results)


def steps(results: Path, run_id: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (results / "runs" / run_id / "steps.jsonl").read_text().splitlines()]


def test_fixed_hpz_equals_zero3_to_the_bit_and_really_gathers(study_file: StudyFile, tmp_path: Path) -> None:
    study, statuses = run(study_file(), tmp_path / "results")
    assert [status.state for status in statuses] == ["done", "done"]
    ((fixed, baseline),) = study.pairs
    hpz, zero3 = steps(tmp_path / "results", fixed.run_id), steps(tmp_path / "results", baseline.run_id)
    assert [line["loss"] for line in hpz] == [line["loss"] for line in zero3]
    assert all(line["secondary_gathers"] > 0 for line in hpz)
    assert all(line["secondary_gathers"] == 0 for line in zero3)
    assert statuses[0].final is not None and statuses[1].final is not None
    assert statuses[0].final.shards_sha256 == statuses[1].final.shards_sha256


def test_finished_runs_are_not_done_again(study_file: StudyFile, tmp_path: Path) -> None:
    _, first = run(study_file(), tmp_path / "results")
    _, second = run(study_file(), tmp_path / "results")
    assert [status.started_utc for status in second] == [status.started_utc for status in first]


def test_a_failed_rank_takes_its_run_down_with_its_last_words(study_file: StudyFile, tmp_path: Path) -> None:
    # A learning-rate schedule cannot fail, a missing checkpoint can: rank by rank, at once.
    broken = {"steps": 2, "task": "finetune", "checkpoint": "/nowhere"}
    _, statuses = run(study_file(training=broken), tmp_path / "results")
    assert {status.state for status in statuses} == {"failed"}
    assert "nowhere" in (statuses[0].reason or "")
    assert len(statuses[0].exit) == 4


def test_memory_that_cannot_be_had_is_a_result_of_its_own(study_file: StudyFile, tmp_path: Path) -> None:
    width = 64 * 10**9
    toy = (REPOSITORY / "experiments" / "models" / "llama2-toy.yaml").read_text()
    size = 2 * (4 * width**2 + 3 * width * 176 + 2 * width) + 2 * 512 * width + width
    huge = toy.replace("hidden_size: 64", f"hidden_size: {width}").replace("166208", str(size))
    file = study_file(matrix={**ZERO3, "model": "huge"})
    (file.parent / "models" / "huge.yaml").write_text(huge)
    _, statuses = run(file, tmp_path / "results")
    assert statuses[0].state == "out-of-memory", statuses[0].reason


def test_a_run_over_its_time_is_ended(study_file: StudyFile, tmp_path: Path) -> None:
    file = study_file(training={"steps": 100000}, launch={"timeout_seconds": 12}, matrix=ZERO3)
    _, statuses = run(file, tmp_path / "results")
    assert statuses[0].state == "timed-out"
    assert "launch.timeout_seconds" in (statuses[0].reason or "")


ZERO3 = {"model": "llama2-toy", "variant": "zero3", "shape": "2x2"}


@pytest.mark.parametrize("blow", [signal.SIGINT, signal.SIGKILL])
def test_a_killed_study_goes_on_where_it_stood(
    study_file: StudyFile, tmp_path: Path, blow: signal.Signals
) -> None:
    file = study_file(training={"steps": 60, "micro_batch": 1, "sequence_length": 16}, matrix=ZERO3)
    command = [sys.executable, "-m", "harness.cli", "run", str(file), "--results", str(tmp_path / "results")]
    process = subprocess.Popen(
        command, start_new_session=True, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    )
    (only,) = load_study(file).runs
    directory = RunDirectory(tmp_path / "results" / "runs" / only.run_id)
    wait_for(lambda: directory.steps_file.exists() and directory.steps_file.stat().st_size > 0)
    ranks = ranks_of(directory)
    process.send_signal(blow)
    process.wait(timeout=30)
    wait_for(lambda: not any(alive(pid) for pid in ranks))
    assert directory.status().state in ("interrupted", "running")
    assert directory.status().final is None
    _, (status,) = run(file, tmp_path / "results")
    assert (status.state, status.attempts) == ("done", 2)


def ranks_of(directory: RunDirectory) -> list[int]:
    """Processes whose standard output is a log of this run."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                target = str((entry / "fd" / "1").readlink())
            except OSError:
                continue
            if target.startswith(str(directory.logs)):
                found.append(int(entry.name))
    assert len(found) == 4
    return found


def alive(pid: int) -> bool:
    try:
        return (Path("/proc") / str(pid) / "stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def wait_for(condition: Any, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.05)
