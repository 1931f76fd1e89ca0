"""Real DeepSpeed ranks on two nodes: turns and a requeue change no number, and the wire carries what was predicted."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from harness.cluster import Cluster
from harness.record import RunDirectory
from harness.study import Study
from tests.conftest import StudyFile, write_study
from tests.slurm.conftest import Submitter, wait_for, wait_for_states

LONG_ENOUGH = {"steps": 60, "micro_batch": 1, "sequence_length": 16, "learning_rate": 4.0e-3}
SECONDS = 600  # imports take most of it, minutes where the machine is busy
pytestmark = [pytest.mark.slow, pytest.mark.timeout(2 * SECONDS + 100)]


def lines(results: Path, run_id: str) -> list[dict[str, Any]]:
    file = results / "runs" / run_id / "steps.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


@pytest.fixture(scope="module")
def turns_taken(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Study, Path]]:
    """zero3 and fixed, two blocks each in one allocation, over links of 100 Mbit/s."""
    root = tmp_path_factory.mktemp("turns")
    send = Submitter(cluster, partial(write_study, root), root, real=True)
    profile = send.profile(blocks=2, network_baseline=True, network_interface="eth0", shapes_links=True)
    matrix = {"model": "llama2-1m", "variant": "fixed", "shape": "2x2-hpz2", "link": "100mbit"}
    study, results, _ = send(profile, matrix=matrix, training={**LONG_ENOUGH, "steps": 6})
    wait_for_states(study, results, "done", seconds=SECONDS)
    yield study, results


def test_turns_in_one_allocation_change_no_loss(turns_taken: tuple[Study, Path]) -> None:
    study, results = turns_taken
    zero3, fixed = (lines(results, run.run_id) for run in study.runs)
    assert [line["step"] for line in zero3] == list(range(6))
    assert [line["loss"] for line in zero3] == [line["loss"] for line in fixed]
    assert all(line["secondary_gathers"] for line in fixed)


def test_the_wire_carries_what_was_predicted(turns_taken: tuple[Study, Path]) -> None:
    study, results = turns_taken
    for run in study.runs:
        steps = lines(results, run.run_id)
        measured = sum(line["wire_bytes"] for line in steps)
        assert sum(line["wire_bytes_predicted"] for line in steps) == pytest.approx(measured, rel=0.03)


def test_the_network_baseline_is_recorded_with_each_run(turns_taken: tuple[Study, Path]) -> None:
    study, results = turns_taken
    for run in study.runs:
        network = RunDirectory(results / "runs" / run.run_id).status().network
        assert network is not None and network["ranks"] == ["n0", "n0", "n1", "n1"]
        largest = max(
            (row for row in network["rows"] if row["scope"] == "all ranks"), key=lambda row: row["bytes"]
        )
        assert 0.03 < largest["bus_gbit_s"] < 0.1  # the link gives 0.1, headers and a busy machine take some


def test_a_requeue_in_the_middle_changes_no_loss(
    cluster: Cluster, study_file: StudyFile, tmp_path: Path
) -> None:
    send = Submitter(cluster, study_file, tmp_path, real=True)
    matrix = {"model": "llama2-toy", "variant": "fixed", "shape": "1x2-hpz2"}
    study, results, (sent,) = send(send.profile(), matrix=matrix, training=LONG_ENOUGH)
    zero3, fixed = study.runs
    wait_for(lambda: len(lines(results, fixed.run_id)) > 5, results, SECONDS)
    cluster.run(["scontrol", "requeue", f"{sent.job_id}_0"], check=True)
    wait_for_states(study, results, "done", seconds=SECONDS)
    assert [line["step"] for line in lines(results, fixed.run_id)] == list(range(60))
    assert [line["loss"] for line in lines(results, fixed.run_id)] == [
        line["loss"] for line in lines(results, zero3.run_id)
    ]
    statuses = [RunDirectory(results / "runs" / run.run_id).status() for run in study.runs]
    assert statuses[0].final is not None and statuses[1].final is not None
    assert statuses[0].final.shards_sha256 == statuses[1].final.shards_sha256
    allocations = (results / "runs" / fixed.run_id / "allocations.jsonl").read_text().splitlines()
    assert [json.loads(line)["outcome"] for line in allocations] == ["stopped", "reached"]
