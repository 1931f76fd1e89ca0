"""What kills ranks, srun, slurmd, nodes and jobs loses no finished step, and is told as what it was."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from harness.cluster import Cluster
from harness.launch.slurm.clients import Clients
from harness.launch.slurm.scheduler import Scheduler
from harness.launch.slurm.status import study_rows
from harness.record import RunDirectory
from harness.study import Study
from tests.slurm.conftest import Submitter, wait_for, wait_for_states
from tests.wandb_store import steps_stored

ONE_RUN = {"model": "llama2-toy", "variant": "zero3", "shape": "2x2"}
STEPS = {"steps": 40, "micro_batch": 1, "sequence_length": 16}


def steps(results: Path, run_id: str) -> list[int]:
    file = results / "runs" / run_id / "steps.jsonl"
    return [json.loads(line)["step"] for line in file.read_text().splitlines()] if file.exists() else []


def turns(results: Path, run_id: str) -> list[dict[str, Any]]:
    return [
        json.loads(line)
        for line in (results / "runs" / run_id / "allocations.jsonl").read_text().splitlines()
    ]


def start(submitter: Submitter, hold: bool = True, **profile: Any) -> tuple[Study, Path, str, str]:
    """Submit one run and wait until it has made some steps: study, results, run id, job id.

    With `hold` it then makes no more before it is stopped, however long that takes.
    """
    submitter.behaviour = {"step_seconds": 0.15} | ({"hold_at": 5} if hold else {"step_seconds": 0.5})
    study, results, (sent,) = submitter(submitter.profile(**profile), training=STEPS, matrix=ONE_RUN)
    run_id = study.runs[0].run_id
    wait_for(lambda: len(steps(results, run_id)) >= 3, results)
    assert sent.job_id is not None
    return study, results, run_id, sent.job_id


def assert_complete(study: Study, results: Path) -> None:
    wait_for_states(study, results, "done")
    for run in study.runs:
        assert steps(results, run.run_id) == list(range(run.training.steps))


def test_a_requeued_run_goes_on_from_its_checkpoint(submitter: Submitter, cluster: Cluster) -> None:
    study, results, run_id, job = start(submitter)
    assert cluster.run(["scontrol", "requeue", f"{job}_0"]).returncode == 0
    assert_complete(study, results)
    first, second = turns(results, run_id)
    assert first["outcome"] == "stopped" and first["until_step"] == second["from_step"] > 0
    assert second["restart"] == 1


def test_a_requeued_run_is_mirrored_to_wandb_once(submitter: Submitter, cluster: Cluster) -> None:
    study, results, run_id, job = start(submitter, wandb="offline")
    assert cluster.run(["scontrol", "requeue", f"{job}_0"]).returncode == 0
    assert_complete(study, results)
    directory = RunDirectory(results / "runs" / run_id)
    wait_for(lambda: (directory.path / "wandb.json").exists(), results)  # the job's last act
    assert steps_stored(directory.path) == list(range(40))


def test_a_killed_srun_is_started_again_and_leaves_no_second_writer(
    submitter: Submitter, cluster: Cluster
) -> None:
    study, results, run_id, _ = start(submitter)
    cluster.run(["sh", "-c", "kill -9 $(pgrep -x srun)"])
    assert_complete(study, results)
    outcomes = [turn["outcome"] for turn in turns(results, run_id)]
    assert outcomes == ["killed", "reached"]


def test_a_killed_rank_is_started_again(submitter: Submitter) -> None:
    submitter.behaviour = {"crash_rank": 3, "crash": "kill", "step_seconds": 0.1}
    study, results, _ = submitter(matrix=ONE_RUN, training=STEPS)
    assert_complete(study, results)
    assert RunDirectory(results / "runs" / study.runs[0].run_id).status().attempts == 2


def test_a_rank_that_is_killed_every_time_ends_the_run_with_its_name(submitter: Submitter) -> None:
    submitter.behaviour = {"crash_rank": 3, "crash": "kill", "crash_attempts": 99}
    study, results, _ = submitter(submitter.profile(attempts=2), matrix=ONE_RUN)
    (status,) = wait_for_states(study, results, "failed")
    assert status.exit[3].signal == "Killed"
    assert status.reason == "rank 3 on n1: Killed"


def test_a_failing_rank_fails_its_run_with_its_last_words_and_spares_the_others(submitter: Submitter) -> None:
    submitter.behaviour = {"crash_rank": 2, "crash": "exit", "crash_attempts": 99}
    study, results, _ = submitter(matrix=ONE_RUN)
    (status,) = wait_for_states(study, results, "failed")
    assert status.reason == "rank 2 ended with code 1: the last words"
    assert status.exit[2].code == 1


def test_out_of_memory_is_a_result_of_its_own(submitter: Submitter) -> None:
    submitter.behaviour = {"crash_rank": 0, "crash": "memory", "crash_attempts": 99}
    study, results, _ = submitter(matrix=ONE_RUN)
    wait_for_states(study, results, "out-of-memory")


def test_a_node_that_goes_down_requeues_its_run_and_may_come_back(
    submitter: Submitter, cluster: Cluster
) -> None:
    study, results, run_id, _ = start(submitter)
    cluster.run(["scontrol", "update", "nodename=n1", "state=down", "reason=test"])
    rows: list[Any] = []

    def queued() -> bool:
        rows[:] = study_rows(study, results, Scheduler(clients_of(cluster)))[0]
        return bool(rows[0].state == "queued" and rows[0].why)

    wait_for(queued, results)
    cluster.run(["scontrol", "update", "nodename=n1", "state=resume"])
    assert_complete(study, results)
    assert turns(results, run_id)[-1]["restart"] >= 1


def test_slurmd_may_die_and_come_back_under_a_running_job(submitter: Submitter, cluster: Cluster) -> None:
    study, results, _, _ = start(submitter, hold=False)
    cluster.kill_node("n1")
    cluster.start_node("n1")
    assert_complete(study, results)


def test_slurmctld_may_die_and_come_back_under_a_running_job(submitter: Submitter, cluster: Cluster) -> None:
    study, results, _, _ = start(submitter, hold=False)
    running = time.time()
    saved = cluster.folder / "state" / "job_state"
    wait_for(
        lambda: saved.exists() and saved.stat().st_mtime > running, results
    )  # it forgets what it has not saved
    cluster.kill_controller()
    cluster.start_controller()
    assert_complete(study, results)


def test_a_run_without_heartbeat_is_called_stalled(submitter: Submitter, cluster: Cluster) -> None:
    submitter.behaviour = {"step_seconds": 30}
    study, results, _ = submitter(submitter.profile(stalled_after_seconds=1), matrix=ONE_RUN)
    scheduler = Scheduler(clients_of(cluster))
    wait_for(lambda: study_rows(study, results, scheduler)[0][0].state == "stalled", results)
    assert "not been heard of" in study_rows(study, results, scheduler)[0][0].why


@pytest.mark.slow
def test_the_signal_before_the_limit_saves_the_run_and_requeues_it(submitter: Submitter) -> None:
    # SLURM looks twice a minute: the signal comes once, 60 to 90 s after the start, and finds who listens.
    study, results, run_id, _ = start(submitter, time="00:02:00", signal_lead_seconds=30)
    assert_complete(study, results)
    first, *rest = turns(results, run_id)
    assert first["outcome"] == "stopped" and rest[-1]["outcome"] == "reached"
    assert rest[-1]["restart"] >= 1


def test_a_stop_that_comes_before_the_ranks_listen_is_called_a_stop(
    submitter: Submitter, cluster: Cluster
) -> None:
    submitter.behaviour = {"deaf_seconds": 3}
    study, results, (sent,) = submitter(matrix=ONE_RUN, training=STEPS)
    wait_for_states(study, results, "running")
    cluster.run(["scancel", "--batch", "--signal=USR1", f"{sent.job_id}_0"])
    assert_complete(study, results)
    assert [turn["outcome"] for turn in turns(results, study.runs[0].run_id)] == ["stopped", "reached"]


def test_the_last_restart_ends_as_timed_out(submitter: Submitter, cluster: Cluster) -> None:
    study, results, _, job = start(submitter, restarts=0)
    cluster.run(["scancel", "--batch", "--signal=USR1", f"{job}_0"])
    (status,) = wait_for_states(study, results, "timed-out")
    assert "restarts" in (status.reason or "")


def clients_of(cluster: Cluster) -> Clients:
    return Clients(tuple(cluster.prefix()), f"{cluster.name}-{cluster.keeper}-{cluster.keeper_started}")
