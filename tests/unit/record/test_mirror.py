"""wandb mirrors the local files: once, under the run id, and its failure harms nothing. Read from its real store."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness.record import RunDirectory, StepWriter
from harness.record.mirror import mirror_run, mirror_study, step_rates
from harness.study import load_study
from harness.system.errors import HarnessError
from tests.conftest import StudyFile
from tests.unit.record.test_record import STEP


@pytest.fixture
def directory(study_file: StudyFile, tmp_path: Path) -> RunDirectory:
    (run,) = load_study(study_file(matrix={"model": "llama2-toy", "variant": "zero3", "shape": "2x2"})).runs
    directory = RunDirectory(tmp_path / "results" / "runs" / run.run_id)
    directory.create(run)
    write_steps(directory, 0, 3)
    return directory


def write_steps(directory: RunDirectory, first: int, last: int) -> None:
    writer = StepWriter(directory.steps_file, from_step=first)
    for step in range(first, last):
        writer.write(replace(STEP, step=step, loss=float("nan") if step == 1 else 3.0 - step))
    writer.close()


def stored(directory: RunDirectory) -> list[Any]:
    """Every record of the run's offline stores, parsed with wandb's own message types."""
    stores = sorted(directory.path.glob("wandb/offline-run-*/*.wandb"))
    return [record for store in stores for record in finished_store(store)]


def finished_store(store: Path) -> list[Any]:
    """The records of one store, once the exit record is there: wandb writes on for a moment after `finish`."""
    from wandb.proto.wandb_internal_pb2 import Record

    deadline = time.monotonic() + 30
    while True:
        records = [Record.FromString(data) for data in log_records(store.read_bytes())]
        if records and records[-1].WhichOneof("record_type") == "exit":
            return records
        assert time.monotonic() < deadline, f"{store} has no exit record"
        time.sleep(0.05)


def log_records(data: bytes) -> Iterator[bytes]:
    """The records of a store: a 7-byte header, then LevelDB's log format (blocks of 32 KiB, records in parts)."""
    block, position, parts = 32768, 7, b""
    while position + 7 <= len(data):
        if block - position % block < 7:
            position += block - position % block
            continue
        length, kind = int.from_bytes(data[position + 4 : position + 6], "little"), data[position + 6]
        parts += data[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # full or last
            yield parts
            parts = b""


def steps_stored(directory: RunDirectory) -> list[int]:
    """The steps of all stores, as often as they were sent."""
    kinds = [record for record in stored(directory) if record.WhichOneof("record_type") == "history"]
    return sorted(step for record in kinds for step in history([record]))


def history(records: list[Any]) -> dict[int, dict[str, Any]]:
    steps = {}
    for record in records:
        if record.WhichOneof("record_type") == "history":
            items = record.history.item
            values = {item.key or item.nested_key[0]: json.loads(item.value_json) for item in items}
            steps[int(values["_step"])] = values
    return steps


def test_a_run_is_mirrored_under_its_id_with_group_and_tags(directory: RunDirectory) -> None:
    mirrored = mirror_run(directory.path, "offline")
    assert mirrored.error is None and mirrored.new_steps == 3
    records = stored(directory)
    (run,) = (record.run for record in records if record.WhichOneof("record_type") == "run")
    assert (run.run_id, run.run_group, list(run.tags)) == (directory.path.name, "tiny", ["zero3", "cpu"])
    steps = history(records)
    assert steps[0]["loss"] == 3.0 and math.isnan(float(steps[1]["loss"])) and sorted(steps) == [0, 1, 2]


def test_pushing_again_sends_only_what_is_new(directory: RunDirectory) -> None:
    mirror_run(directory.path, "offline")
    assert mirror_run(directory.path, "offline").new_steps == 0
    assert len(list(directory.path.glob("wandb/offline-run-*"))) == 1
    write_steps(directory, 3, 5)  # resumed after a requeue
    assert mirror_run(directory.path, "offline").new_steps == 2
    assert {
        record.run.run_id for record in stored(directory) if record.WhichOneof("record_type") == "run"
    } == {directory.path.name}
    assert steps_stored(directory) == [0, 1, 2, 3, 4]


def test_a_run_has_one_offline_store_with_every_step_once_however_often_it_is_pushed(
    directory: RunDirectory,
) -> None:
    for steps in (3, 4, 5):
        write_steps(directory, 3, steps)
        mirror_run(directory.path, "offline")
    assert len(list(directory.path.glob("wandb/offline-run-*"))) == 1
    assert steps_stored(directory) == [0, 1, 2, 3, 4]


def test_steps_carry_what_dashboards_expect(directory: RunDirectory) -> None:
    mirror_run(directory.path, "offline")
    records = stored(directory)
    (run,) = (record.run for record in records if record.WhichOneof("record_type") == "run")
    assert run.job_type == "zero3"
    assert any(item.key == "training.learning_rate" for item in run.config.update)
    values, per_step = history(records)[2], directory.run().tokens_per_step
    assert values["tokens"] == 3 * per_step and values["step"] == 2
    assert values["Train/Samples/lr"] == values["lr"] and values["tokens_per_second"] > 0
    axes = {
        record.metric.name or record.metric.glob_name
        for record in records
        if record.WhichOneof("record_type") == "metric"
    }
    assert {"step", "samples", "tokens", "Train/Samples/*"} <= axes


def test_runs_are_told_while_they_train_and_to_their_end(directory: RunDirectory) -> None:
    command = [sys.executable, "-m", "harness.record.live", "offline", str(directory.path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as live:
        assert live.stdin is not None
        deadline = time.monotonic() + 120
        while not list(directory.path.glob("wandb/offline-run-*/*.wandb")):
            assert time.monotonic() < deadline and live.poll() is None
            time.sleep(0.1)
        write_steps(directory, 3, 6)  # a requeued run goes on
        live.stdin.close()
        assert live.wait(120) == 0
    assert steps_stored(directory) == [0, 1, 2, 3, 4, 5]
    assert mirror_run(directory.path, "offline").new_steps == 0


def test_a_live_mirror_that_was_killed_leaves_nothing_undone(directory: RunDirectory) -> None:
    command = [sys.executable, "-m", "harness.record.live", "offline", str(directory.path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as live:
        deadline = time.monotonic() + 120
        while not list(directory.path.glob("wandb/offline-run-*/*.wandb")):
            assert time.monotonic() < deadline and live.poll() is None
            time.sleep(0.1)
        live.kill()
    assert mirror_run(directory.path, "offline").error is None
    assert steps_stored(directory) == [0, 1, 2]


def test_two_that_push_at_once_push_once(directory: RunDirectory) -> None:
    with ThreadPoolExecutor(2) as pool:
        done = list(pool.map(mirror_study, [directory.path.parent.parent] * 2, ["offline"] * 2))
    assert sorted(mirrored.new_steps for (mirrored,) in done) == [0, 3]


def test_a_folder_without_runs_is_named(tmp_path: Path) -> None:
    with pytest.raises(HarnessError, match="holds no runs; give a study that ran"):
        mirror_study(tmp_path, "offline")


def test_a_broken_mirror_is_reported_and_harms_nothing(directory: RunDirectory) -> None:
    (directory.path / "wandb").write_text("in the way")
    before = directory.steps_file.read_bytes()
    mirrored = mirror_run(directory.path, "offline")
    assert mirrored.error is not None and mirrored.new_steps == 0
    assert directory.steps_file.read_bytes() == before


def test_a_study_is_pushed_in_parallel(directory: RunDirectory) -> None:
    (mirrored,) = mirror_study(directory.path.parent.parent, "offline")
    assert mirrored.error is None and mirrored.new_steps == 3


def test_steps_carry_throughput_where_time_is_time(study_file: StudyFile, tmp_path: Path) -> None:
    matrix = {"model": "llama2-toy", "variant": "zero3", "shape": "2x2"}
    cpu, virtual = (
        load_study(study_file(device=device, matrix=matrix)).runs[0] for device in ("cpu", "virtual")
    )
    line = {"tokens": 800, "step_seconds": 2.0}
    rates = step_rates(cpu, line, 6e9)
    assert rates["tokens_per_second_per_rank"] == 100
    assert rates["model_tflops_per_rank"] == 0.6
    assert step_rates(virtual, line, 6e9) == step_rates(cpu, {**line, "step_seconds": None}, 6e9) == {}
