"""What SLURM ends without requeueing it is sent again, as often as allowed, and each time it is said why."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from harness.cluster import Cluster
from harness.launch.slurm.again import Again, read_again
from harness.launch.slurm.cancel import cancel
from harness.launch.slurm.status import Row, study_rows
from harness.record import RunDirectory
from harness.record.hours import read_turns, study_hours
from harness.study import Study
from tests.slurm.conftest import Submitter, wait_for
from tests.slurm.test_failures import ONE_RUN, assert_complete, start, turns


@dataclass
class Watch:
    """`hpz watch --resubmit` without its window: looks once whenever it is asked to."""

    study: Study
    results: Path
    limit: int = 10

    def __post_init__(self) -> None:
        self.said: list[str] = []
        self.again = Again(
            self.study, self.results, self.limit, lambda _, sentence: self.said.append(sentence)
        )

    def row(self) -> Row:
        return study_rows(self.study, self.results)[0][0]

    def until_ended(self) -> Row:
        wait_for(lambda: not self.row().may_go_on, self.results)
        return self.row()

    def look(self) -> bool:
        """Whether anything is to come."""
        return self.again.look(study_rows(self.study, self.results)[0])


def preempt(cluster: Cluster) -> None:
    """A job of the higher partition takes both nodes, and ends as soon as it has them."""
    wrapped = ["--nodes=2", "--exclusive", "--time=1", "--output=/dev/null", "--wrap=true"]
    cluster.run(["sbatch", "--partition=main", *wrapped], check=True)


def kill_driver(cluster: Cluster) -> None:
    cluster.run(["pkill", "-9", "-f", "harness.launch.slurm.task"], check=True)


def test_a_run_that_was_preempted_and_cancelled_is_sent_again(submitter: Submitter, cluster: Cluster) -> None:
    study, results, run_id, job = start(submitter, partition="spare")
    preempt(cluster)
    watch = Watch(study, results)
    ended = watch.until_ended()
    assert (ended.state, ended.ended_by) == ("interrupted", "PREEMPTED")
    assert watch.look()
    assert_complete(study, results)
    assert watch.said[0].startswith("sent again (1 of 10): llama2-toy_2x2_s1")
    assert "the job was preempted, and is not requeued here (SLURM: PREEMPTED)" in watch.said[0]
    first, second = turns(results, run_id)
    assert first["until_step"] == second["from_step"] > 0 and first["job"] == f"{job}_0" != second["job"]
    assert first["code"] == second["code"]  # of the first submission, whatever lies in the checkout by now


def test_a_grace_time_is_used_for_a_checkpoint_and_then_waited_for(
    submitter: Submitter, cluster: Cluster
) -> None:
    """SLURM signals the ranks when it begins to preempt, and the job's script only when it ends the job."""
    cluster.run(["scontrol", "update", "partition=spare", "GraceTime=10"], check=True)
    try:
        study, results, run_id, _ = start(submitter, partition="spare")
        preempt(cluster)
        watch = Watch(study, results)
        ended = watch.until_ended()
    finally:
        cluster.run(["scontrol", "update", "partition=spare", "GraceTime=0"], check=True)
    assert (ended.state, ended.ended_by) == ("interrupted", "PREEMPTED")
    assert watch.look()
    assert_complete(study, results)
    assert [turn["outcome"] for turn in turns(results, run_id)] == ["stopped", "reached"]


def test_a_run_whose_driver_was_killed_is_sent_again(submitter: Submitter, cluster: Cluster) -> None:
    study, results, run_id, _ = start(submitter)
    kill_driver(cluster)
    watch = Watch(study, results)
    assert watch.until_ended().ended_by == "FAILED"
    assert watch.look()
    assert_complete(study, results)
    assert "ended without the run's final record (SLURM: FAILED)" in watch.said[0]
    lost, reached = read_turns(RunDirectory(results / "runs" / run_id))
    assert (lost.outcome, reached.outcome) == ("lost", "reached") and lost.until_step == reached.from_step > 0
    (total,) = (row for row in study_hours(study, results) if row.variant is None)
    assert 0 < total.restarts < total.used and total.failed == 0


def test_what_never_gets_further_is_not_sent_for_ever(submitter: Submitter, cluster: Cluster) -> None:
    """A set-up that fails ends each job before a step is made."""
    study, results, _ = submitter(submitter.profile(setup=["false"]), matrix=ONE_RUN)
    watch = Watch(study, results)
    for _ in range(2):
        watch.until_ended()
        assert watch.look()
    watch.until_ended()
    assert not watch.look()
    assert [line["steps"] for line in read_again(results)] == [0, 0]
    assert watch.said[-1].startswith("not sent again:") and "came no step further" in watch.said[-1]


def test_what_a_person_cancelled_stays_cancelled(submitter: Submitter, cluster: Cluster) -> None:
    study, results, _, job = start(submitter)
    assert cancel(results) == [job]
    watch = Watch(study, results)
    assert watch.until_ended().ended_by == "CANCELLED"
    assert not watch.look() and watch.said == []
