"""wandb mirrors the local files: once, under the run id, and its failure harms nothing. Read from its real store."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime
from importlib.util import find_spec
from pathlib import Path

import pytest

from harness.record import RunDirectory, StepWriter
from harness.record.metrics import DEEPSPEED, TRAINER, step_rates
from harness.record.mirror import mirror_run, mirror_study, sole_pusher
from harness.study import load_study
from harness.system.errors import HarnessError
from tests.conftest import StudyFile
from tests.unit.record.test_record import STEP
from tests.wandb_store import history, of, steps_stored, stored, stores, summary


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


def test_a_run_is_mirrored_under_its_id_with_group_and_tags(directory: RunDirectory) -> None:
    mirrored = mirror_run(directory.path, "offline")
    assert mirrored.error is None and mirrored.new_steps == 3
    records = stored(directory.path)
    (run,) = of("run", records)
    assert (run["run_id"], run["run_group"], run["job_type"]) == (directory.path.name, "tiny", "zero3")
    assert run["tags"] == ["zero3", "cpu"]
    assert "training.learning_rate" in run["config"]["update"]
    rows = history(records)
    assert [row["step"] for row in rows] == [0, 1, 2]
    assert rows[0]["loss"] == 3.0 and math.isnan(rows[1]["loss"])


def test_pushing_again_sends_only_what_is_new(directory: RunDirectory) -> None:
    mirror_run(directory.path, "offline")
    assert mirror_run(directory.path, "offline").new_steps == 0
    assert len(list(directory.path.glob("wandb/offline-run-*"))) == 1
    write_steps(directory, 3, 5)  # resumed after a requeue
    assert mirror_run(directory.path, "offline").new_steps == 2
    assert [run["run_id"] for run in of("run", stored(directory.path))] == [directory.path.name]
    assert steps_stored(directory.path) == [0, 1, 2, 3, 4]


def test_a_run_has_one_offline_store_with_every_step_once_however_often_it_is_pushed(
    directory: RunDirectory,
) -> None:
    for steps in (3, 4, 5):
        write_steps(directory, 3, steps)
        mirror_run(directory.path, "offline")
    assert len(list(directory.path.glob("wandb/offline-run-*"))) == 1
    assert steps_stored(directory.path) == [0, 1, 2, 3, 4]


def test_steps_carry_what_dashboards_expect(directory: RunDirectory) -> None:
    mirror_run(directory.path, "offline")
    records = stored(directory.path)
    row, per_step = history(records)[2], directory.run().tokens_per_step
    assert row["tokens"] == 3 * per_step and row["step"] == 2
    assert row["tokens_per_second"] > 0
    assert {one.get("name") or one["glob_name"] for one in of("metric", records)} >= {
        "step",
        "tokens",
        "samples",
        "*",
    }


def test_charts_of_a_users_own_runs_show_ours(directory: RunDirectory) -> None:
    mirror_run(directory.path, "offline")
    row, run = history(stored(directory.path))[2], directory.run()
    # DeepSpeed's monitor logs at the count of samples, Hugging Face's Trainer counts steps from 1.
    assert row["_step"] == row["samples"] == 3 * run.tokens_per_step // run.training.sequence_length
    assert row["Train/Samples/lr"] == row["train/learning_rate"] == row["lr"]
    assert row["Train/Samples/train_loss"] == row["train/loss"] == row["loss"]
    assert row["train/global_step"] == 3


def test_the_names_of_a_users_own_runs_are_those_that_their_libraries_write() -> None:
    specs = [find_spec(name) for name in ("deepspeed", "transformers")]
    of_deepspeed, of_transformers = (Path(spec.origin or "").parent for spec in specs if spec)
    engines = [of_deepspeed / "runtime" / name for name in ("engine.py", "pipe/engine.py")]
    written = "".join(file.read_text() for file in engines).replace("'", '"')
    assert [name for name in DEEPSPEED if f'"{name}"' not in written] == []
    assert "self.log({label: value}, step=step)" in (of_deepspeed / "monitor" / "wandb.py").read_text()
    trainer = (of_transformers / "integrations" / "integration_utils.py").read_text()
    assert 'define_metric("*", step_metric="train/global_step"' in trainer
    assert {name.split("/")[0] for name in TRAINER} == {"train", "eval"}


def test_steps_have_the_time_of_the_training_not_of_the_push(directory: RunDirectory) -> None:
    recorded = [json.loads(line)["utc"] for line in directory.steps_file.read_text().splitlines()]
    mirror_run(directory.path, "offline")
    told = [row["_timestamp"] for row in history(stored(directory.path))]
    assert told == pytest.approx([datetime.fromisoformat(utc).timestamp() for utc in recorded], abs=1e-3)


def test_a_reports_verdict_reaches_the_runs_summary_once(directory: RunDirectory) -> None:
    mirror_run(directory.path, "offline")
    verdict = {"verdict": "diverged", "first_bad_step": 1}
    assert mirror_run(directory.path, "offline", verdict).error is None
    found = summary(stored(directory.path))
    assert (found["verdict"], found["first_bad_step"], found["state"]) == ("diverged", 1, "pending")
    (before,) = stores(directory.path)
    mirror_run(directory.path, "offline", verdict)
    mirror_run(directory.path, "offline")  # an array task that ends knows of no report
    assert stores(directory.path) == [before]


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
    assert steps_stored(directory.path) == [0, 1, 2, 3, 4, 5]
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
    rows = history(stored(directory.path))
    assert [row["step"] for row in rows] == [0, 1, 2]
    lines = [json.loads(line) for line in directory.steps_file.read_text().splitlines()]
    for name in ("grad_norm", "lr", "step_seconds", "secondary_gathers", "bytes_inter"):
        assert [row[name] for row in rows] == [line[name] for line in lines]


def test_two_that_push_at_once_push_once(directory: RunDirectory) -> None:
    with ThreadPoolExecutor(2) as pool:
        done = list(pool.map(mirror_study, [directory.path.parent.parent] * 2, ["offline"] * 2))
    assert sorted(mirrored.new_steps for (mirrored,) in done) == [0, 3]


def test_a_run_that_its_own_task_mirrors_is_left_to_it(
    directory: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("harness.record.mirror.LOCK_SECONDS", 0.0)
    with sole_pusher(directory.path, 0.0):
        mirrored = mirror_run(directory.path, "offline")
    assert mirrored.busy and mirrored.error is None and not stores(directory.path)


def test_a_push_that_was_killed_goes_on_where_it_stood(directory: RunDirectory) -> None:
    results = directory.path.parent.parent
    for number in range(3):
        copied = directory.path.with_name(f"{directory.path.name}-{number}")
        shutil.copytree(directory.path, copied)
    script = "from harness.record.mirror import mirror_study\nfrom pathlib import Path\n"
    script += f"if __name__ == '__main__': mirror_study(Path({str(results)!r}), 'offline', 1)"
    file = results / "push.py"
    file.write_text(script)
    with subprocess.Popen([sys.executable, str(file)]) as push:
        deadline = time.monotonic() + 120
        while not list(results.glob("runs/*/wandb.json")):
            assert time.monotonic() < deadline and push.poll() is None
            time.sleep(0.01)
        push.kill()
    heard: list[tuple[int, int]] = []
    mirrored = mirror_study(results, "offline", 1, watch=lambda done, total: heard.append((done, total)))
    assert [one.error for one in mirrored] == [None] * 4 and heard[-1] == (4, 4)
    assert sum(one.new_steps for one in mirrored) < 4 * 3
    for folder in (results / "runs").iterdir():
        assert steps_stored(folder) == [0, 1, 2]


def test_a_run_that_failed_is_a_failed_one_there_too(directory: RunDirectory) -> None:
    directory.update_status(state="out-of-memory")
    mirror_run(directory.path, "offline")
    assert of("exit", stored(directory.path))[0]["exit_code"] == 1


def test_a_run_that_waits_in_a_queue_is_not_told(directory: RunDirectory) -> None:
    directory.steps_file.unlink()
    assert mirror_run(directory.path, "offline").error is None
    assert not stores(directory.path)


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
