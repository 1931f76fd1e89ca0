"""Three nodes, one of them bad: it is found, told from its partner, and left out."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.cluster import Cluster, Spec
from harness.cluster.cluster import temporary_cluster
from harness.cluster.needs import check_machine
from harness.cluster.network import shape_words
from harness.cluster.spec import DATA_INTERFACE
from harness.launch.slurm.checks import node_notes
from harness.launch.slurm.health import Health
from harness.system.errors import HarnessError
from tests.conftest import StudyFile
from tests.slurm.conftest import Submitter, wait_for_states

TWO_NODES = {"model": "llama2-toy", "variant": "zero3", "shape": "2x1"}
STEPS = {"steps": 4, "micro_batch": 1, "sequence_length": 16}
SMI = """#!/bin/sh
gpus=2; [ "$SLURMD_NODENAME" = n1 ] && gpus=1
echo '<nvidia_smi_log>'; for i in $(seq $gpus); do echo '<gpu></gpu>'; done; echo '</nvidia_smi_log>'
"""


@pytest.fixture(scope="module")
def three_nodes() -> Iterator[Cluster]:
    try:
        check_machine()
    except HarnessError as error:
        pytest.skip(str(error))
    with temporary_cluster(Spec(nodes=3, cpus=4, gpus=2, link="200mbit")) as running:
        yield running


def turns(results: Path, run_id: str) -> list[dict[str, Any]]:
    lines = (results / "runs" / run_id / "allocations.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_a_node_that_lacks_a_gpu_is_left_out_and_by_the_groups_that_wait_too(
    three_nodes: Cluster, study_file: StudyFile, tmp_path: Path
) -> None:
    (tmp_path / "nvidia-smi").write_text(SMI)
    (tmp_path / "nvidia-smi").chmod(0o755)
    send = Submitter(three_nodes, study_file, tmp_path)
    profile = send.profile(
        health=Health(exclude_at_most=1), gpus_per_node=2, throttle=1, setup=(f"PATH={tmp_path}:$PATH",)
    )
    matrix = {**TWO_NODES, "shape": "2x2", "seed": [1, 2]}
    study, results, _ = send(profile, matrix=matrix, training=STEPS, device="cuda")
    wait_for_states(study, results, "done")
    first, second = (turns(results, run.run_id) for run in study.runs)
    assert [(turn["outcome"], turn["nodes"]) for turn in first] == [("left", "n[0-1]"), ("reached", "n[0,2]")]
    assert first[0]["nodes_found"] == ["n1: has 1 GPUs of 2"]
    assert [(turn["outcome"], turn["nodes"]) for turn in second] == [("reached", "n[0,2]")]
    (note,) = node_notes(results / "slurm")
    assert note.sentence.startswith("n1 is left out: has 1 GPUs of 2; job ")


@pytest.mark.slow
@pytest.mark.timeout(1300)
def test_a_node_with_a_slow_link_is_found_and_left_out(
    three_nodes: Cluster, study_file: StudyFile, tmp_path: Path
) -> None:
    planted = ["tc", "qdisc", *shape_words(DATA_INTERFACE, "10mbit")]
    three_nodes.run(planted, node="n1", check=True)
    send = Submitter(three_nodes, study_file, tmp_path)
    health = Health(exclude_at_most=1, between_nodes_gbit_s=0.2, tolerance=0.6)
    profile = send.profile(network_baseline=True, health=health)
    study, results, (sent,) = send(profile, matrix=TWO_NODES, training=STEPS)
    wait_for_states(study, results, "done", seconds=600)  # imports take most of it

    first, second = turns(results, study.runs[0].run_id)
    assert (first["nodes"], first["outcome"]) == ("n[0-1]", "left")
    assert "cannot be told without a third node: n1 or n0" in first["reason"]
    assert (second["nodes"], second["outcome"]) == ("n[0,2]", "reached")
    assert second["nodes_excluded"] == ["n1"] and second["restart"] == 1
    (convicted,) = second["nodes_found"]
    assert convicted.startswith("n1: sends to n0 at 0.0") and convicted.endswith("0.2 expected")
    log = (sent.folder / "log").glob("*.txt")
    assert "hpz: sent again without n1" in next(log).read_text()
