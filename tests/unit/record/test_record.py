"""What a run directory holds survives kills, resumes and non-finite numbers."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from harness.record import RunDirectory, StepRecord, StepWriter
from harness.study import Study
from harness.system.errors import HarnessError
from tests.synthetic import STUDY

STEP = StepRecord(
    step=0,
    loss=2.5,
    grad_norm=1.0,
    lr=1e-3,
    tokens=256,
    step_seconds=0.1,
    secondary_gathers=30,
    host_syncs=None,
    bytes_intra=10,
    bytes_inter=20,
    skipped=False,
)


def steps(file: Path) -> list[int]:
    return [json.loads(line)["step"] for line in file.read_text().splitlines()]


def test_numbers_that_json_lacks_are_null_and_named() -> None:
    line = replace(STEP, loss=float("nan"), grad_norm=float("inf")).line()
    read = json.loads(line, parse_constant=lambda word: pytest.fail(f"not strict JSON: {word}"))
    assert read["loss"] is None and read["grad_norm"] is None
    assert read["nonfinite"] == "loss=nan grad_norm=inf"


def test_a_resumed_writer_cuts_later_steps_and_half_lines(tmp_path: Path) -> None:
    file = tmp_path / "steps.jsonl"
    writer = StepWriter(file)
    for step in range(5):
        writer.write(replace(STEP, step=step))
    writer.close()
    with file.open("a") as stream:
        stream.write('{"step": 5, "lo')  # killed while writing
    resumed = StepWriter(file, from_step=3)
    resumed.write(replace(STEP, step=3))
    resumed.close()
    assert steps(file) == [0, 1, 2, 3]


def test_a_run_begun_anew_starts_an_empty_file(tmp_path: Path) -> None:
    file = tmp_path / "steps.jsonl"
    file.write_text('{"step": 0}\n')
    StepWriter(file).close()
    assert file.read_text() == ""


def test_a_half_written_status_reads_as_pending(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path)
    directory.status_file.write_text('{"state": "don')
    assert directory.status().state == "pending"


def test_status_changes_from_many_sides_are_all_kept(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path)
    with ThreadPoolExecutor(8) as pool:
        for _ in range(20):
            pool.submit(directory.update_status, step=1)
            pool.submit(directory.update_status, attempts=1)
            pool.submit(directory.update_status, state="running")
    status = directory.status()
    assert (status.step, status.attempts, status.state) == (1, 1, "running")


def test_a_run_directory_that_cannot_be_made_is_named(tmp_path: Path, made_up_patches: None) -> None:
    (tmp_path / "runs").write_text("")
    (run, *_) = Study.model_validate(STUDY).runs
    with pytest.raises(HarnessError, match=r"runs/one: cannot be written \(.*; free space or use --results"):
        RunDirectory(tmp_path / "runs" / "one").create(run)


def test_a_foreign_run_record_is_named(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(HarnessError, match=r"run\.json: not a run record .*delete the folder"):
        RunDirectory(tmp_path).run()
