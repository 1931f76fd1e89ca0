"""Cancels a study's jobs, or one of them, by job id alone, and writes down that this was meant."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from harness.launch.slurm.arrays import Submitted, submissions
from harness.launch.slurm.clients import Clients
from harness.launch.slurm.waiting import forget_waiting
from harness.system.errors import HarnessError
from harness.system.whole_file import write_json


def cancel(results: Path) -> list[str]:
    """Cancel every job of a study that SLURM still has; returns the ids given to scancel. What waits is forgotten."""
    done = []
    forget_waiting(results)
    sent = submissions(results / "slurm")
    for profile in {s.profile.local_cluster: s.profile for s in sent}.values():
        clients = Clients.of(profile)
        here = {s.mark: s for s in sent if s.cluster == clients.cluster}
        by_id = {s.job_id: s for s in here.values()}
        mine = [job for job in clients.squeue() if job.active and job.task]
        tasks = [(found, job) for job in mine if (found := here.get(job.mark) or by_id.get(job.array_id))]
        for submitted in here.values():
            _meant(submitted, (int(job.task) for found, job in tasks if found is submitted))
        for job_id in sorted({job.array_id for _, job in tasks}, key=int):
            clients.scancel(job_id)
            done.append(job_id)
    return done


def cancel_job(job_id: str, folders: Sequence[Path]) -> None:
    """Cancel a job or array task of a study among these results folders. Raises HarnessError where none has it."""
    submitted = submission_of(job_id, folders)
    task = job_id.partition("_")[2]
    _meant(submitted, [int(task)] if task else range(len(submitted.tasks)))
    Clients.of(submitted.profile).scancel(job_id)


def _meant(submitted: Submitted, tasks: Iterable[int]) -> None:
    """Write down that these tasks are not to be sent again unasked."""
    cancelled = sorted({*submitted.cancelled, *tasks})
    if cancelled != list(submitted.cancelled):
        file = submitted.folder / "submission.json"
        write_json(file, {**json.loads(file.read_text()), "cancelled": cancelled})


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
