"""The invariants of the virtual device, on real DeepSpeed ZeRO-3 with four gloo ranks and all three model families."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from harness.launch.local import run_study
from harness.record import RunDirectory
from harness.study import Run, load_study, save_study
from tests.conftest import StudyFile

FAMILIES = ["llama2-toy", "falcon-7b-toy", "falcon-40b-toy"]
PLAIN = {"variant": "zero3", "policy": "eager", "device": "cpu"}
SHORT = {"steps": 3, "micro_batch": 1, "sequence_length": 16, "learning_rate": 4.0e-3}

pytestmark = pytest.mark.slow


def outcomes(file: Path, results: Path) -> list[tuple[Run, dict[str, Any], dict[str, Any]]]:
    """Each run with its own outcome and that of its baseline: losses and the hash of all shards."""
    study = load_study(file)
    save_study(study, results)
    statuses = run_study(study, results)
    assert [(status.state, status.reason) for status in statuses] == [("done", None)] * len(statuses)
    return [(run, outcome(results, run.run_id), outcome(results, base.run_id)) for run, base in study.pairs]


def outcome(results: Path, run_id: str) -> dict[str, Any]:
    directory = RunDirectory(results / "runs" / run_id)
    lines = [json.loads(line) for line in directory.steps_file.read_text().splitlines()]
    final = directory.status().final
    assert final is not None
    return {
        "losses": [line["loss"] for line in lines],
        "shards": final.shards_sha256,
        "gathers": min(line["secondary_gathers"] for line in lines),
    }


def test_an_ordered_program_equals_plain_cpu_under_every_policy(
    study_file: StudyFile, tmp_path: Path
) -> None:
    policies = ["eager", "side-first", "main-first", "random(1)"]
    matrix = [
        {"model": FAMILIES, "variant": "fixed", "shape": "2x2-hpz2", "device": "virtual", "policy": policies},
        {
            "model": "llama2-toy",
            "variant": "zero3",
            "shape": "2x2",
            "device": "virtual",
            "policy": policies[1:],
        },
    ]
    found = outcomes(study_file(training=SHORT, baseline=PLAIN, matrix=matrix), tmp_path / "results")
    assert len(found) == 15
    for run, mine, plain in found:
        assert mine["losses"] == plain["losses"], (run.run_id, "losses")
        assert mine["shards"] == plain["shards"], (run.run_id, "shards")
        assert run.variant == "zero3" or mine["gathers"] > 0


def test_the_race_shows_side_first_with_every_poison_and_not_eager(
    study_file: StudyFile, tmp_path: Path
) -> None:
    training = {**SHORT, "activation_checkpointing": True}
    race = {"variant": "unordered", "shape": "2x2-hpz2", "device": "virtual"}
    matrix = [
        {"model": "falcon-7b-toy", **race, "policy": ["eager", "side-first"]},
        {"model": "llama2-toy", **race, "policy": "side-first", "poison": ["nan", "pattern", "stale"]},
    ]
    found = outcomes(study_file(training=training, baseline=PLAIN, matrix=matrix), tmp_path / "results")
    equal = {
        (run.model, run.policy, run.poison): mine["shards"] == plain["shards"] for run, mine, plain in found
    }
    assert equal == {
        ("falcon-7b-toy", "eager", "nan"): True,
        ("falcon-7b-toy", "side-first", "nan"): False,
        ("llama2-toy", "side-first", "nan"): False,
        ("llama2-toy", "side-first", "pattern"): False,
        ("llama2-toy", "side-first", "stale"): False,
    }


def test_all_ranks_start_collectives_in_the_same_order(study_file: StudyFile, tmp_path: Path) -> None:
    fixed = {"model": "llama2-toy", "variant": "fixed", "shape": "2x2-hpz2", "device": "virtual"}
    run = load_study(study_file(training=SHORT, matrix=fixed)).pairs[0][0]
    (tmp_path / "run.json").write_text(run.model_dump_json())
    policies = ["eager", "side-first", "main-first", "random(1)", "random(2)"]
    command = [
        sys.executable,
        "-m",
        "tests.deepspeed.device.virtual_ranks",
        str(tmp_path / "run.json"),
        *policies,
    ]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert finished.returncode == 0, finished.stderr[-3000:]
    orders = defaultdict(list)
    for line in finished.stdout.splitlines():
        if line.startswith("{"):
            record = json.loads(line)
            orders[record["policy"]].append(record["started"])
    assert list(orders) == policies
    for started in orders.values():
        assert len(started) == 4
        assert len(started[0]) > 20
        assert all(order == started[0] for order in started)
    # Policies do differ: the order within a group is fixed, the order between groups is not.
    assert sorted(orders["side-first"][0]) == sorted(orders["eager"][0])
    assert orders["side-first"][0] != orders["eager"][0]
