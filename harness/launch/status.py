"""What has become of a study on SLURM: the scheduler's view of each task joined with what its runs wrote."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from harness.errors import HarnessError
from harness.launch.scheduler import FINISHED, Clients, Job, Scheduler, Snapshot
from harness.launch.slurm import Submitted, submissions
from harness.record import RunDirectory, Status, seconds_since, utc_now
from harness.study import Study

ENDED_BY_SLURM = {  # SLURM's word → the run's state and what it means
    "TIMEOUT": (
        "timed-out",
        "the job reached its time limit before the run could checkpoint and be requeued",
    ),
    "NODE_FAIL": ("node-failed", "a node failed and the job was not requeued"),
    "BOOT_FAIL": ("node-failed", "a node did not boot"),
    "OUT_OF_MEMORY": ("out-of-memory", "SLURM ended the job for its memory"),
    "PREEMPTED": ("preempted", "the job was preempted"),
    "CANCELLED": ("interrupted", "the job was cancelled"),
    "DEADLINE": ("timed-out", "the job reached its deadline"),
}
OPEN = ("pending", "running", "preempted")  # states that only a living job can lead out of
ON_NODES = {"RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "CONFIGURING"}


@dataclass(frozen=True)
class Row:
    """One run as a user wants to see it."""

    run_id: str
    state: str  # a run's own state, or: not submitted, queued, waiting, stalled
    step: int
    steps: int
    job: str | None
    nodes: str
    why: str


def study_rows(
    study: Study, results: Path, scheduler: Scheduler | None = None
) -> tuple[list[Row], str | None]:
    """A row a run, in study order, and why the scheduler could not be asked, where it could not.

    A run whose job has ended without its final record is given the state that SLURM's reason calls for, on disk too.
    """
    places = task_places(results)
    snapshots, problem = _snapshots(places, scheduler)
    rows = []
    for run in study.runs:
        directory = RunDirectory(results / "runs" / run.run_id)
        status, place = directory.status(), places.get(run.run_id)
        submitted, index = place or (None, 0)
        snapshot = snapshots.get(submitted.cluster) if submitted else None
        key = f"{submitted.job_id}_{index}" if submitted else None
        job = snapshot.jobs.get(key) if snapshot and key else None
        limit = submitted.profile.stalled_after_seconds if submitted else 0
        # A job younger than the scheduler's answer is unknown only because nobody has asked since.
        known = bool(snapshot and submitted and submitted.utc < snapshot.utc and not snapshot.problem)
        state, why = joined_state(status, job, limit, submitted is not None, known)
        if status.state in OPEN and state not in OPEN and state in _RUN_STATES:
            directory.update_status(state=state, reason=why, ended_utc=status.ended_utc or utc_now())
        nodes = job.nodes if job and job.state in ON_NODES else ""
        step = 0 if status.step is None else status.step + 1
        rows.append(
            Row(run.run_id, state, step, run.training.steps, key if job or submitted else None, nodes, why)
        )
    return rows, problem


_RUN_STATES = {state for state, _ in ENDED_BY_SLURM.values()} | {"failed"}


def task_places(results: Path) -> dict[str, tuple[Submitted, int]]:
    """Each run's newest submission, and its array task there."""
    return {
        run_id: (submitted, index)
        for submitted in submissions(results / "slurm")
        for index, task in enumerate(submitted.tasks)
        for run_id in task.runs
    }


def _snapshots(
    places: dict[str, tuple[Submitted, int]], scheduler: Scheduler | None
) -> tuple[dict[str, Snapshot], str | None]:
    """One snapshot a cluster that the runs were sent to; a cluster that is gone has none."""
    found: dict[str, Snapshot] = {}
    problem = None
    for submitted in {id(place[0]): place[0] for place in places.values()}.values():
        if submitted.cluster in found:
            continue
        try:
            asked = scheduler or Scheduler(Clients.of(submitted.profile))
        except HarnessError as error:
            problem = str(error)
            found[submitted.cluster] = Snapshot(utc=utc_now())  # gone, and its jobs with it
            continue
        if asked.clients.cluster != submitted.cluster:
            found[submitted.cluster] = Snapshot(utc=utc_now())
            continue
        wanted = {p[0].job_id for p in places.values() if p[0].cluster == submitted.cluster and p[0].job_id}
        found[submitted.cluster] = asked.snapshot(wanted)
        problem = found[submitted.cluster].problem or problem
    return found, problem


def joined_state(
    status: Status, job: Job | None, stalled_after: float, submitted: bool, known: bool
) -> tuple[str, str]:
    """One state, and why, from what the run wrote and what SLURM says.

    `known`: SLURM has answered since the run was submitted, so that a job it does not name has ended long ago.
    """
    if status.state not in OPEN:
        return status.state, status.reason or ""
    if not submitted:
        return ("not submitted", "") if status.state == "pending" else (status.state, status.reason or "")
    if job is None:
        if not known:
            return "queued", "not asked of SLURM yet"
        return "interrupted", "SLURM no longer knows the job; submit again to go on"
    if job.state in ON_NODES:
        return _on_nodes(status, job, stalled_after)
    if job.state in FINISHED or job.state == "PREEMPTED":
        state, meaning = ENDED_BY_SLURM.get(
            job.state, ("failed", "the job ended without the run's final record")
        )
        return state, f"{meaning} (SLURM: {job.state})"
    again = f"goes on from step {status.step + 1}; " if status.step is not None else ""
    return "queued", again + (job.reason or job.state.lower())


def _on_nodes(status: Status, job: Job, stalled_after: float) -> tuple[str, str]:
    if status.state != "running":
        return "waiting", "for its turn in the allocation"
    silent = seconds_since(status.heartbeat_utc) if status.heartbeat_utc else 0.0
    if silent > stalled_after:
        return (
            "stalled",
            f"SLURM calls it {job.state.lower()}, but it has not been heard of for {silent:.0f} s",
        )
    return "running", status.reason or ""


def count_states(rows: list[Row]) -> dict[str, int]:
    """How many runs are in each state, most first."""
    return dict(Counter(row.state for row in rows).most_common())
