"""A study becomes job arrays: one array a cluster shape, one array task a pair group, one folder a submission.

results/<study>/slurm/0001/
    submit.sbatch     the script; `sbatch submit.sbatch` repeats it
    tasks.jsonl       line I says what array task I runs
    profile.yaml      the cluster profile as resolved
    submission.json   the job's id once SLURM has given one
    log/              output of the tasks; network/ the network baselines
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import shlex
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from harness.launch.slurm.profile import Profile
from harness.launch.slurm.scheduler import Clients, Scheduler, Unanswered
from harness.record import RunDirectory
from harness.study import Run, Study
from harness.system.errors import HarnessError
from harness.system.places import REPOSITORY
from harness.system.utc import utc_now
from harness.system.whole_file import write_json

if TYPE_CHECKING:
    from jinja2 import Template

TEMPLATE = REPOSITORY / "slurm" / "study.sbatch.j2"


@dataclass(frozen=True)
class Task:
    """A pair group: the runs that one array task takes turns at, in study order."""

    group: str
    runs: tuple[str, ...]
    nodes: int
    ranks_per_node: int
    device: str
    link: str | None = None  # rate that the task gives the links between its nodes


@dataclass(frozen=True)
class Submission:
    """One job array: its tasks all ask for the same nodes."""

    study: str
    folder: Path  # absolute
    tasks: tuple[Task, ...]
    python: str = field(default_factory=lambda: sys.executable)
    repository: Path = REPOSITORY

    @property
    def script(self) -> Path:
        return self.folder / "submit.sbatch"

    @property
    def mark(self) -> str:
        """Names this submission in the queue; a hash, since folders may hold any character."""
        return "hpz-" + hashlib.sha256(str(self.folder).encode()).hexdigest()[:16]


def pair_groups(runs: Iterable[Run]) -> list[Task]:
    """Runs that differ in variant, policy and what follows from them alone share a group, baselines first in it."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(group_name(run), []).append(run)
    return [_task(name, members) for name, members in groups.items()]


def _task(group: str, runs: list[Run]) -> Task:
    first = runs[0]
    if first.virtual_nodes:
        raise HarnessError(
            "virtual_nodes: true says that all ranks are on one machine; use hpz run there, or leave it out"
        )
    names = tuple(run.run_id for run in runs)
    return Task(group, names, first.shape.nodes, first.shape.ranks_per_node, first.device, first.link)


def group_name(run: Run) -> str:
    """What all runs of a group share, readable and with a hash."""
    shared = (
        run.model,
        run.model_spec,
        run.release,
        run.shape.nodes,
        run.shape.ranks_per_node,
        run.seed,
        run.device,
        run.training,
        run.data.sha256,
        run.link,
    )
    digest = hashlib.sha256(repr(shared).encode()).hexdigest()[:8]
    accumulation = (
        f"_ga{run.training.gradient_accumulation}" if run.training.gradient_accumulation > 1 else ""
    )
    link = f"_{run.link}" if run.link else ""
    shape = f"{run.shape.nodes}x{run.shape.ranks_per_node}"
    return f"{run.model}_{shape}{accumulation}{link}_s{run.seed}_{digest}"


def render(submission: Submission, profile: Profile) -> str:
    """The batch script of a submission, a pure function of its arguments.

    Raises HarnessError where the study asks for more than the profile's nodes have, or a path cannot be written in
    an #SBATCH line.
    """
    first = submission.tasks[0]
    for task in submission.tasks:
        check_request(task, profile)
    return _template().render(
        study=submission.study,
        profile=profile,
        tasks=len(submission.tasks),
        nodes=first.nodes,
        ranks_per_node=first.ranks_per_node,
        gpus=first.ranks_per_node if first.device == "cuda" else 0,
        job_name=profile.job_name or f"hpz-{submission.study}",
        log=str(submission.folder / "log").replace("%", "%%") + "/%A_%a.txt",
        mark=submission.mark,
        folder=str(submission.folder),
        repository=str(submission.repository),
        python=profile.python or submission.python,
    )


def check_request(task: Task, profile: Profile) -> None:
    """Refuse before sbatch does what the profile says cannot be had."""
    if task.device == "cuda" and task.ranks_per_node > profile.gpus_per_node:
        raise HarnessError(
            f"matrix.shape: {task.ranks_per_node} ranks a node need as many GPUs, but profile {profile.name!r} has "
            f"gpus_per_node={profile.gpus_per_node}; use a smaller shape or another profile"
        )
    if profile.max_nodes is not None and task.nodes > profile.max_nodes:
        raise HarnessError(
            f"matrix.shape: {task.nodes} nodes, but profile {profile.name!r} has max_nodes={profile.max_nodes}"
        )
    if task.link and not (profile.shapes_links and profile.network_interface):
        raise HarnessError(
            f"matrix.link: {task.link}, but jobs of profile {profile.name!r} may not limit links; leave link out, "
            "or use slurm/clusters/one-machine.yaml"
        )


@lru_cache(maxsize=1)
def _template() -> Template:
    import jinja2

    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    environment.filters |= {"shell": shlex.quote, "option": quote_option, "comment": one_line}
    return environment.from_string(TEMPLATE.read_text())


def quote_option(text: str) -> str:
    """A value as an #SBATCH line may hold it: sbatch reads quotes there as a shell does, but expands nothing.

    Raises HarnessError for what no such line can hold.
    """
    if not text.isprintable() or "\\" in text:
        raise HarnessError(f"{text!r}: SLURM cannot take a backslash or a line break there; use another name")
    return shlex.quote(text)


def one_line(text: str) -> str:
    """Text that cannot leave a comment."""
    return " ".join(text.split())


def plan_submissions(
    study: Study, results: Path, profile: Profile, scheduler: Scheduler | None
) -> list[Submission]:
    """What is missing or failed, and not in the queue, as arrays. `scheduler` None: as if nothing was queued."""
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
        Submission(study.name, folder / f"{first + number:04d}", tuple(chunk))
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


@dataclass(frozen=True)
class Submitted:
    """A submission as read back from its folder."""

    folder: Path
    job_id: str | None
    cluster: str
    utc: str
    tasks: tuple[Task, ...]
    profile: Profile
    mark: str  # of all its jobs, also of those that `sbatch submit.sbatch` starts

    def key(self, index: int) -> str | None:
        """SLURM's ARRAY_TASK of a task as first submitted; None while the job's id is not known."""
        return f"{self.job_id}_{index}" if self.job_id else None


def submissions(folder: Path) -> list[Submitted]:
    """All submissions of a study, oldest first."""
    return [_read_submission(file.parent) for file in sorted(folder.glob("[0-9]*/submission.json"))]


def _read_submission(folder: Path) -> Submitted:
    state = json.loads((folder / "submission.json").read_text())
    return Submitted(
        folder,
        state["job_id"],
        state["cluster"],
        state["utc"],
        read_tasks(folder),
        read_profile(folder),
        state["mark"],
    )


def read_tasks(folder: Path) -> tuple[Task, ...]:
    lines = (folder / "tasks.jsonl").read_text().splitlines()
    return tuple(Task(**{**task, "runs": tuple(task["runs"])}) for task in map(json.loads, lines))


def read_profile(folder: Path) -> Profile:
    return Profile.model_validate(yaml.safe_load((folder / "profile.yaml").read_text()))


def submit(study: Study, results: Path, profile: Profile) -> list[Submitted]:
    """Submit what is missing or failed; returns the new submissions, none where nothing is.

    The profile's throttle holds over several arrays, too: each waits for the one before it. Raises HarnessError with
    SLURM's own words when it refuses; arrays accepted before stay submitted.
    """
    clients = Clients.of(profile)
    with _one_submitter(results):
        runs = {run.run_id: run for run in study.runs}
        scheduler = Scheduler(clients)
        find_lost(results / "slurm", scheduler)
        planned = plan_submissions(study, results, profile, scheduler)
        scripts = [render(submission, profile) for submission in planned]
        sent: list[Submitted] = []
        for submission, script in zip(planned, scripts, strict=True):
            after = sent[-1].job_id if sent and profile.throttle else None
            sent.append(_send(submission, script, profile, clients, runs, after))
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
    results = folder.parent.parent
    for run_id in (run_id for task in submission.tasks for run_id in task.runs):
        directory = RunDirectory(results / "runs" / run_id)
        directory.create(runs[run_id])
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
    return _read_submission(folder)


def write_submission(submission: Submission, script: str, profile: Profile) -> None:
    """Write everything that the batch script needs, and the script."""
    folder = submission.folder
    for name in ("log", "network"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / "tasks.jsonl").write_text("".join(json.dumps(asdict(task)) + "\n" for task in submission.tasks))
    content = profile.model_dump(mode="json", exclude_defaults=True) | {"name": profile.name}
    (folder / "profile.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    submission.script.write_text(script)


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
