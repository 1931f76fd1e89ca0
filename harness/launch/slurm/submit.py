"""Sends what is missing of a study to SLURM, as far as the site has room, and finds lost submissions again."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
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
from harness.launch.slurm.budget import check_budget
from harness.launch.slurm.checks import leaving_out, node_notes
from harness.launch.slurm.clients import Clients, Unanswered
from harness.launch.slurm.container import ranks_see
from harness.launch.slurm.limits import JobLimit, Site, array_limit, job_limit, site
from harness.launch.slurm.profile import Profile
from harness.launch.slurm.scheduler import Scheduler
from harness.launch.slurm.script import render
from harness.launch.slurm.snapshot import other_code, take_snapshot
from harness.launch.slurm.waiting import Waiting, cut, remember_waiting, waiting_sentence
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
    site: Site | None = None,
    runs: Iterable[Run] | None = None,
) -> list[Submission]:
    """What is missing or failed, and not in the queue, as arrays that run the code of `repository`.

    `scheduler` None: as if nothing was queued; `runs`: these of the study's runs alone.
    """
    folder = results.resolve() / "slurm"
    queued = queued_groups(folder, scheduler)
    needed = [
        task
        for task in pair_groups(study.runs if runs is None else runs)
        if task.group not in queued and any(not is_done(results, run) for run in task.runs)
    ]
    shapes: dict[tuple[int, int, str], list[Task]] = {}
    for task in needed:
        shapes.setdefault((task.nodes, task.ranks_per_node, task.device), []).append(task)
    size = array_limit(site, profile)
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
    study: Study,
    results: Path,
    profile: Profile,
    say: Callable[[str], None] = lambda sentence: None,
    runs: Iterable[Run] | None = None,
    code: Path | None = None,
) -> list[Submitted]:
    """Submit what is missing or failed; returns the new submissions, none where nothing is.

    They run from the snapshot `code`, by default one of the code as it is now; `say` hears where runs that are done had
    other code, and what waits for the site to have room. `runs`: these of the study's runs alone.
    The profile's throttle holds over several arrays, too: each waits for the one before it, and the first for those of
    the study that SLURM still has. Raises HarnessError with SLURM's own words when it refuses; arrays accepted before
    stay submitted.
    """
    clients = Clients.of(profile)
    with _one_submitter(results):
        scheduler, allowed = Scheduler(clients), site(clients)
        find_lost(results / "slurm", scheduler)
        for sentence in release_held(results / "slurm", scheduler):
            say(sentence)
        snapshot = None if code else take_snapshot(results)
        folder = code or (snapshot.folder if snapshot else REPOSITORY)
        profile = leaving_out(profile, results / "slurm", clients.cluster)
        planned = plan_submissions(study, results, profile, scheduler, folder, allowed, runs)
        check_budget(study, results, profile, planned, queued_groups(results / "slurm", scheduler))
        limit = job_limit(allowed, profile) if allowed else None
        if limit is not None:
            now, later = cut(planned, _room(limit, scheduler, results / "slurm"))
            remember_waiting(results, Waiting(limit.words, profile, folder, later), planned)
            planned = now
            if later:
                say(waiting_sentence(limit.words, later))
        runs_by_id = {run.run_id: run for run in study.runs}
        before = active_jobs(results / "slurm", scheduler) if profile.throttle else []
        sent = _send_in_order(planned, profile, clients, runs_by_id, before)
        for note in node_notes(results / "slurm") if sent else ():
            say(note.sentence)
        if sent and snapshot:
            done = (run.run_id for run in study.runs if is_done(results, run.run_id))
            for sentence in other_code(results, snapshot, done):
                say(sentence)
        return sent


def active_jobs(folder: Path, scheduler: Scheduler) -> list[str]:
    """Array ids of a study's jobs that SLURM has; those that are younger than its last answer are taken to be there."""
    sent = [s for s in submissions(folder) if s.cluster == scheduler.clients.cluster]
    if not sent:
        return []
    snapshot = scheduler.snapshot()
    marks, ids = {s.mark for s in sent}, {s.job_id for s in sent}
    found = {
        j.array_id for j in snapshot.jobs.values() if j.active and (j.mark in marks or j.array_id in ids)
    }
    young = {s.job_id for s in sent if s.job_id and s.utc >= snapshot.utc}
    return sorted(found | young, key=int)


def release_held(folder: Path, scheduler: Scheduler) -> list[str]:
    """Let the tasks go that SLURM holds after a failed launch; a sentence for each."""
    sent = [s for s in submissions(folder) if s.cluster == scheduler.clients.cluster]
    snapshot = scheduler.snapshot() if sent else None
    said = []
    for submitted in sent if snapshot else ():
        for index, task in enumerate(submitted.tasks):
            job = snapshot.job(submitted.mark, submitted.job_id, index) if snapshot else None
            if job is not None and job.held:
                key = f"{job.array_id}_{job.task}"
                scheduler.clients.release(key)
                said.append(f"job {key}, {task.group}: SLURM held it after a failed launch; it is released")
    return said


def _room(limit: JobLimit, scheduler: Scheduler, folder: Path) -> int:
    """Jobs that may still be sent, those counted that are younger than SLURM's last answer."""
    snapshot = scheduler.snapshot()
    mine = (s for s in submissions(folder) if s.cluster == scheduler.clients.cluster)
    unseen = sum(len(s.tasks) for s in mine if s.utc >= snapshot.utc)
    return limit.room(snapshot.jobs.values()) - unseen


def _send_in_order(
    planned: list[Submission], profile: Profile, clients: Clients, runs: dict[str, Run], before: list[str]
) -> list[Submitted]:
    """Send arrays; where the profile has a throttle each waits for the one before, the first for the jobs `before`."""
    scripts = [render(submission, profile) for submission in planned]
    sent: list[Submitted] = []
    for submission, script in zip(planned, scripts, strict=True):
        previous = [str(sent[-1].job_id)] if sent and profile.throttle else before
        after = f"afterany:{':'.join(previous)}" if previous else ""
        together = ",".join(filter(None, (profile.dependency, after))) if after else None
        sent.append(_send(submission, script, profile, clients, runs, together))
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
    dependency: str | None,
) -> Submitted:
    folder = submission.folder
    write_submission(submission, script, profile)
    container = profile.container.record() if profile.container else None
    results = folder.parent.parent
    for run_id in (run_id for task in submission.tasks for run_id in task.runs):
        directory = RunDirectory(results / "runs" / run_id)
        directory.create(runs[run_id], submission.repository.name, container)
        if directory.status().state != "done":
            directory.update_status(state="pending", reason=None, ended_by=None, exit={})
    state = {"schema_version": 1, "cluster": clients.cluster, "utc": utc_now(), "mark": submission.mark}
    state["code"] = str(submission.repository)
    write_json(folder / "submission.json", {**state, "job_id": None})
    try:
        job_id = clients.sbatch(submission.script, dependency)
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
