"""Sends what is missing of a study to SLURM, finds lost submissions again, and cancels."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from harness.launch.slurm.arrays import (
    Submission,
    Submitted,
    Task,
    pair_groups,
    read_submission,
    submissions,
    write_submission,
)
from harness.launch.slurm.clients import Clients, Unanswered
from harness.launch.slurm.container import ranks_see
from harness.launch.slurm.profile import Profile
from harness.launch.slurm.scheduler import Scheduler
from harness.launch.slurm.script import render
from harness.launch.slurm.snapshot import other_code, take_snapshot
from harness.record import RunDirectory
from harness.study import Run, Study
from harness.system.errors import HarnessError
from harness.system.places import REPOSITORY
from harness.system.utc import utc_now
from harness.system.whole_file import write_json


def plan_submissions(
    study: Study,
    results: Path,
    profile: Profile,
    scheduler: Scheduler | None,
    repository: Path = REPOSITORY,
) -> list[Submission]:
    """What is missing or failed, and not in the queue, as arrays that run the code of `repository`.

    `scheduler` None: as if nothing was queued.
    """
    folder = results.resolve() / "slurm"
    queued = queued_groups(folder, scheduler)
    needed = [
        task
        for task in pair_groups(study.runs)
        if task.group not in queued and any(not is_done(results, run) for run in task.runs)
    ]
    shapes: dict[tuple[int, int, str], list[Task]] = {}
    for task in needed:
        shapes.setdefault((task.nodes, task.ranks_per_node, task.device), []).append(task)
    size = profile.max_array_size
    chunks = [tasks[i : i + size] for tasks in shapes.values() for i in range(0, len(tasks), size)]
    first = 1 + max((int(s.folder.name) for s in submissions(folder)), default=0)
    return [
        Submission(
            study.name,
            folder / f"{first + number:04d}",
            tuple(chunk),
            repository=repository,
            seen=ranks_see(folder.parent, repository, study.runs) if profile.container else (),
        )
        for number, chunk in enumerate(chunks)
    ]


def is_done(results: Path, run_id: str) -> bool:
    return RunDirectory(results / "runs" / run_id).status().state == "done"


def queued_groups(folder: Path, scheduler: Scheduler | None) -> set[str]:
    """Groups that SLURM still has before it or is running."""
    if scheduler is None:
        return set()
    sent = [s for s in submissions(folder) if s.cluster == scheduler.clients.cluster]
    if not sent:
        return set()
    snapshot = scheduler.snapshot()
    queued = set()
    for submitted in sent:
        for index, task in enumerate(submitted.tasks):
            job = snapshot.job(submitted.mark, submitted.job_id, index)
            # A job younger than the snapshot is not in it yet.
            if job.active if job is not None else submitted.utc >= snapshot.utc:
                queued.add(task.group)
    return queued


def submit(
    study: Study, results: Path, profile: Profile, say: Callable[[str], None] = lambda sentence: None
) -> list[Submitted]:
    """Submit what is missing or failed; returns the new submissions, none where nothing is.

    They run from a snapshot of the code as it is now; `say` hears where runs that are done had other code.
    The profile's throttle holds over several arrays, too: each waits for the one before it. Raises HarnessError with
    SLURM's own words when it refuses; arrays accepted before stay submitted.
    """
    clients = Clients.of(profile)
    with _one_submitter(results):
        runs = {run.run_id: run for run in study.runs}
        scheduler = Scheduler(clients)
        find_lost(results / "slurm", scheduler)
        code = take_snapshot(results)
        planned = plan_submissions(study, results, profile, scheduler, code.folder)
        scripts = [render(submission, profile) for submission in planned]
        sent: list[Submitted] = []
        for submission, script in zip(planned, scripts, strict=True):
            after = sent[-1].job_id if sent and profile.throttle else None
            sent.append(_send(submission, script, profile, clients, runs, after))
        if sent:
            done = (run_id for run_id in runs if is_done(results, run_id))
            for sentence in other_code(results, code, done):
                say(sentence)
        return sent


@contextmanager
def _one_submitter(results: Path) -> Iterator[None]:
    """Two `hpz submit` at once would send everything twice."""
    (results / "slurm").mkdir(parents=True, exist_ok=True)
    with (results / "slurm" / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _send(
    submission: Submission,
    script: str,
    profile: Profile,
    clients: Clients,
    runs: dict[str, Run],
    after: str | None,
) -> Submitted:
    folder = submission.folder
    write_submission(submission, script, profile)
    container = profile.container.record() if profile.container else None
    results = folder.parent.parent
    for run_id in (run_id for task in submission.tasks for run_id in task.runs):
        directory = RunDirectory(results / "runs" / run_id)
        directory.create(runs[run_id], submission.repository.name, container)
        if directory.status().state != "done":
            directory.update_status(state="pending", reason=None, exit={})
    state = {"schema_version": 1, "cluster": clients.cluster, "utc": utc_now(), "mark": submission.mark}
    write_json(folder / "submission.json", {**state, "job_id": None})
    try:
        job_id = clients.sbatch(submission.script, after)
    except Unanswered:
        raise  # find_lost looks for it
    except HarnessError:
        (folder / "submission.json").unlink()  # never existed; the script stays, to be looked at
        raise
    write_json(folder / "submission.json", {**state, "job_id": job_id})
    return read_submission(folder)


def find_lost(folder: Path, scheduler: Scheduler) -> None:
    """Give submissions their job id that were killed between sbatch and writing it down."""
    for file in sorted(folder.glob("[0-9]*/submission.json")):
        state = json.loads(file.read_text())
        if state["job_id"] is None:
            mark = state["mark"]
            found = {job.array_id for job in scheduler.snapshot().jobs.values() if job.mark == mark}
            if found:
                write_json(file, {**state, "job_id": min(found)})


def cancel(results: Path) -> list[str]:
    """Cancel every job of a study that SLURM still has, by job id alone; returns the ids given to scancel."""
    done = []
    sent = submissions(results / "slurm")
    for profile in {s.profile.local_cluster: s.profile for s in sent}.values():
        clients = Clients.of(profile)
        here = [s for s in sent if s.cluster == clients.cluster]
        marks, ids = {s.mark for s in here}, {s.job_id for s in here}
        mine = [job for job in clients.squeue() if job.active and (job.mark in marks or job.array_id in ids)]
        for job_id in sorted({job.array_id for job in mine}, key=int):
            clients.scancel(job_id)
            done.append(job_id)
    return done


def submission_of(job_id: str, folders: Sequence[Path]) -> Submitted:
    """The newest submission with this job, among studies' results folders. Raises HarnessError where none has it."""
    array_id = job_id.partition("_")[0]
    found = (s for results in folders for s in submissions(results / "slurm"))
    sent = sorted(found, key=lambda submitted: submitted.utc, reverse=True)
    for submitted in sent:
        if submitted.job_id == array_id:
            return submitted
    marked = {submitted.mark: submitted for submitted in sent}
    for profile in {s.profile.local_cluster: s.profile for s in sent}.values():
        with suppress(HarnessError):  # a cluster that is gone has no job
            for job in Clients.of(profile).squeue():
                if job.array_id == array_id and job.mark in marked:
                    return marked[job.mark]
    raise HarnessError(
        f"job {job_id} was not submitted from here; scancel {job_id} ends jobs of other origin"
    )
