"""What one task of an array does to itself, it does to itself alone.

The task that SLURM splits off last keeps the array's id as its own: by that id a client means all of them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest

from harness.cluster import Cluster
from harness.system.places import REPOSITORY
from tests.slurm.conftest import wait_for

Start = Callable[[int], str]
SCRIPT = "#!/bin/sh\nsrun sleep 600\n"


@pytest.fixture
def start(cluster: Cluster) -> Start:
    """Starts an array of which three tasks run and the others wait; gives its id."""

    def array(tasks: int) -> str:
        sbatch = ["sbatch", "--parsable", f"--array=0-{tasks - 1}%3", "--nodes=1", "--requeue"]
        job = cluster.run([*sbatch, "--output=/dev/null"], input=SCRIPT, check=True).stdout.strip()
        wait_for(lambda: steps_of(cluster) == {f"{job}_{task}.0" for task in range(3)})
        return job

    return array


def steps_of(cluster: Cluster) -> set[str]:
    """Job steps that run, without those of the batch scripts."""
    listed = cluster.run(["squeue", "--noheader", "--steps", "--format=%i"], check=True).stdout.split()
    return {step for step in listed if step.rpartition(".")[2].isdigit()}


def field_of(cluster: Cluster, job: str, key: str) -> str:
    words = cluster.run(["scontrol", "show", "job", "--oneliner", job], check=True).stdout.split()
    return dict(word.partition("=")[::2] for word in words)[key]


def of_tasks(cluster: Cluster, array: str, key: str, tasks: int = 3) -> list[str]:
    return [field_of(cluster, f"{array}_{task}", key) for task in range(tasks)]


def in_task(cluster: Cluster, job: str, says: str) -> None:
    """Run a line of Python as task 2 of the array would."""
    lines = [
        "from harness.launch.slurm.elsewhere import send_elsewhere",
        "from harness.launch.slurm.srun import Allocation, end_steps",
        f"task = Allocation('{job}_2', 0, 'n0')",
        says,
    ]
    python = ["env", f"PYTHONPATH={REPOSITORY}", sys.executable, "-c", "\n".join(lines)]
    done = cluster.run(python)
    assert done.returncode == 0, done.stderr


def test_a_task_with_the_arrays_id_ends_its_own_steps_and_no_others(cluster: Cluster, start: Start) -> None:
    array = start(3)
    assert field_of(cluster, f"{array}_2", "JobId") == array
    in_task(cluster, array, "end_steps(task)")
    assert {f"{array}_0.0", f"{array}_1.0"} <= steps_of(cluster)
    assert f"{array}_2.0" not in steps_of(cluster)


def test_a_task_with_the_arrays_id_sends_itself_elsewhere_and_no_other(
    cluster: Cluster, start: Start
) -> None:
    array = start(3)
    assert field_of(cluster, f"{array}_2", "JobId") == array
    in_task(cluster, array, "assert send_elsewhere(task, ['n1'], ['n1']) is None")
    assert of_tasks(cluster, array, "ExcNodeList") == ["(null)", "(null)", "n1"]
    assert of_tasks(cluster, array, "Restarts") == ["0", "0", "1"]


def test_those_that_wait_leave_the_node_out_too(cluster: Cluster, start: Start) -> None:
    array = start(5)
    in_task(cluster, array, "assert send_elsewhere(task, ['n1'], ['n1']) is None")
    assert of_tasks(cluster, array, "ExcNodeList", 5) == ["(null)", "(null)", "n1", "n1", "n1"]


def test_where_a_task_cannot_be_requeued_those_that_wait_stay_as_they_were(
    cluster: Cluster, start: Start
) -> None:
    array = start(4)
    cluster.run(["scontrol", "update", f"jobid={array}_2", "requeue=0"], check=True)
    in_task(cluster, array, "assert 'disabled' in send_elsewhere(task, ['n1'], []).lower()")
    assert of_tasks(cluster, array, "ExcNodeList", 4) == ["(null)"] * 4
    assert of_tasks(cluster, array, "Restarts", 4) == ["0"] * 4
