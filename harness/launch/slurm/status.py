"""What has become of a study on SLURM: the scheduler's view of each task joined with what its runs wrote."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from harness.launch.slurm.arrays import Submitted, submissions
from harness.launch.slurm.clients import FINISHED, HELD, Clients, Job
from harness.launch.slurm.scheduler import Scheduler, Snapshot
from harness.launch.slurm.waiting import read_waiting
from harness.record import OPEN, RunDirectory, Status
from harness.record.ranks import paces, read_windows, slow_ranks
from harness.study import Run, Study
from harness.system.errors import HarnessError
from harness.system.utc import local_to_utc, seconds_since, utc_now

ENDED_BY_SLURM = {  # SLURM's word → the run's state and what it means
    "TIMEOUT": (
        "timed-out",
        "the job reached its time limit before the run could checkpoint and be requeued",
    ),
    "NODE_FAIL": ("node-failed", "a node failed and the job was not requeued"),
    "BOOT_FAIL": ("node-failed", "a node did not boot"),
    "OUT_OF_MEMORY": ("out-of-memory", "SLURM ended the job for its memory"),
    "PREEMPTED": ("interrupted", "the job was preempted, and is not requeued here"),
    "CANCELLED": ("interrupted", "the job was cancelled"),
    "DEADLINE": ("timed-out", "the job reached its deadline"),
}
FORGOTTEN = "FORGOTTEN"  # neither queue nor accounting has the job
ON_NODES = {"RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "CONFIGURING", "SIGNALING"}


Place = tuple[Submitted, int]  # a submission and an array task of it


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
    slow: str = ""  # ranks that the others wait for, while it runs
    ended_by: str | None = None  # SLURM's word where that ended the run, or FORGOTTEN
    starts_utc: str | None = None  # when SLURM expects to start the pending job

    @property
    def may_go_on(self) -> bool:
        """Whether SLURM has a job for it, or is not known to have none."""
        return self.state in ("queued", "waiting", "running", "stalled", "preempted")


def study_rows(
    study: Study, results: Path, scheduler: Scheduler | None = None
) -> tuple[list[Row], str | None]:
    """A row a run, in study order, and why the scheduler could not be asked, where it could not.

    A run whose job has ended without its final record is given the state that SLURM's reason calls for, on disk too,
    but only once SLURM's accounting, where there is any, was asked as well.
    """
    statuses = {run.run_id: RunDirectory(results / "runs" / run.run_id).status() for run in study.runs}
    places = task_places(results)
    in_question = [
        places[run_id] for run_id, status in statuses.items() if status.state in OPEN and run_id in places
    ]
    snapshots, problem = _snapshots(in_question, scheduler)
    waiting = read_waiting(results)
    waits = (
        dict.fromkeys((run_id for task in waiting.tasks for run_id in task.runs), waiting.why)
        if waiting
        else {}
    )
    rows = []
    for run in study.runs:
        status, place = statuses[run.run_id], places.get(run.run_id)
        job, known = _answer(status, place, snapshots)
        limit = place[0].profile.stalled_after_seconds if place else 0
        state, why = joined_state(status, job, limit, place is not None, known)
        if status.state in OPEN and state not in OPEN and state in _RUN_STATES:
            status = RunDirectory(results / "runs" / run.run_id).update_status(
                state=state,
                reason=why or None,
                ended_by=job.state if job else FORGOTTEN,
                ended_utc=(job and job.ended_utc) or status.heartbeat_utc or utc_now(),
            )
        waits_for = waits.get(run.run_id, why) if state == "not submitted" else why
        slow = slow_now(results / "runs" / run.run_id) if state == "running" else ""
        rows.append(replace(_row(run, state, waits_for, status, place, job), slow=slow))
    return rows, problem


_RUN_STATES = {state for state, _ in ENDED_BY_SLURM.values()} | {"failed", "done"}


def _row(run: Run, state: str, why: str, status: Status, place: Place | None, job: Job | None) -> Row:
    recorded = place[0].key(place[1]) if place else None
    key = f"{job.array_id}_{job.task}" if job else recorded
    nodes = job.nodes if job and job.state in ON_NODES else ""
    step = 0 if status.step is None else status.step + 1
    starts = local_to_utc(job.start) if job and job.state == "PENDING" and state == "queued" else None
    return Row(
        run.run_id,
        state,
        step,
        run.training.steps,
        key,
        nodes,
        why,
        ended_by=status.ended_by,
        starts_utc=starts,
    )


def slow_now(path: Path) -> str:
    """Ranks of a run that the others wait for, by the last of what it wrote; empty where that is noise."""
    found = slow_ranks(paces(read_windows(RunDirectory(path).ranks_file, tail=True)))
    return "; ".join(slow.short for slow in found)


def _answer(
    status: Status, place: Place | None, snapshots: Mapping[str, Snapshot]
) -> tuple[Job | None, bool]:
    """A run's job as SLURM last told it, and whether SLURM is known to have none."""
    if place is None or (snapshot := snapshots.get(place[0].cluster)) is None:
        return None, False
    submitted, index = place
    job = snapshot.job(submitted.mark, submitted.job_id, index)
    # What is younger than the answer is not in it: a job just submitted, and ranks that a later job started.
    if (status.heartbeat_utc or "") >= snapshot.utc and not (job and job.active):
        return None, False
    key = submitted.key(index)
    asked = not snapshot.problem and submitted.utc < snapshot.utc
    return job, asked and job is None and (key is None or key in snapshot.forgotten)


def task_places(results: Path) -> dict[str, Place]:
    """Each run's newest submission, and its array task there."""
    return {
        run_id: (submitted, index)
        for submitted in submissions(results / "slurm")
        for index, task in enumerate(submitted.tasks)
        for run_id in task.runs
    }


def _snapshots(
    places: Iterable[Place], scheduler: Scheduler | None
) -> tuple[dict[str, Snapshot], str | None]:
    """One snapshot a cluster that the runs were sent to; a cluster that is gone has forgotten them all."""
    by_cluster: dict[str, list[Place]] = {}
    for place in places:
        by_cluster.setdefault(place[0].cluster, []).append(place)
    found: dict[str, Snapshot] = {}
    problem = None
    for cluster, mine in by_cluster.items():
        wanted = {key for submitted, index in mine if (key := submitted.key(index))}
        found[cluster] = Snapshot(utc=utc_now(), forgotten=frozenset(wanted))
        try:
            asked = scheduler or Scheduler(Clients.of(mine[0][0].profile))
        except HarnessError as error:
            problem = str(error)
            continue
        if asked.clients.cluster == cluster:
            found[cluster] = asked.snapshot(wanted)
            problem = found[cluster].problem or problem
    return found, problem


def joined_state(
    status: Status, job: Job | None, stalled_after: float, submitted: bool, known: bool
) -> tuple[str, str]:
    """One state, and why, from what the run wrote and what SLURM says.

    `known`: SLURM has answered since the run was submitted and has no job, so that it has ended long ago.
    """
    if status.state not in OPEN:
        return status.state, status.reason or ""
    if not submitted:
        return ("not submitted", "") if status.state == "pending" else (status.state, status.reason or "")
    if job is None and not known:
        return "running" if status.state == "running" else "queued", "not asked of SLURM yet"
    if status.final is not None and (job is None or not job.active):
        return "done", ""  # its job died before it could say so
    if job is None:
        return "interrupted", "SLURM no longer knows the job; submit again to go on"
    if job.state in ON_NODES:
        return _on_nodes(status, job, stalled_after)
    if job.state in FINISHED:
        state, meaning = ENDED_BY_SLURM.get(
            job.state, ("failed", "the job ended without the run's final record")
        )
        return state, f"{meaning} (SLURM: {job.state})"
    if job.held:
        return "held", f"SLURM holds it after a failed launch ({HELD}); hpz submit releases it"
    again = f"goes on from step {status.step + 1}; " if status.step is not None else ""
    expected = f"; expected to start {job.start[:16].replace('T', ' ')}" if local_to_utc(job.start) else ""
    return "queued", again + (job.reason or job.state.lower()) + expected


def _on_nodes(status: Status, job: Job, stalled_after: float) -> tuple[str, str]:
    if status.state == "preempted":
        return "preempted", status.reason or ""
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
