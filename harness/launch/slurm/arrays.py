"""A study becomes job arrays: one array a cluster shape, one array task a pair group, one folder a submission.

results/<study>/slurm/0001/
    submit.sbatch     the script; `sbatch submit.sbatch` repeats it
    tasks.jsonl       line I says what array task I runs
    profile.yaml      the cluster profile as resolved
    submission.json   the job's id once SLURM has given one, and the code's folder
    log/              output of the tasks; network/ the network baselines
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml

from harness.launch.slurm.profile import Profile
from harness.study import Run
from harness.system.errors import HarnessError
from harness.system.places import REPOSITORY, cache_folder


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
    cache: Path = field(default_factory=cache_folder)
    seen: tuple[str, ...] = ()  # paths that its ranks need, for a container

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
    code: Path | None = None  # the snapshot that its tasks run from, where it is known
    cancelled: tuple[
        int, ...
    ] = ()  # tasks that `hpz cancel` ended: nothing but `hpz submit` sends them again

    def key(self, index: int) -> str | None:
        """SLURM's ARRAY_TASK of a task as first submitted; None while the job's id is not known."""
        return f"{self.job_id}_{index}" if self.job_id else None


def submissions(folder: Path) -> list[Submitted]:
    """All submissions of a study, oldest first."""
    return [read_submission(file.parent) for file in sorted(folder.glob("[0-9]*/submission.json"))]


def read_submission(folder: Path) -> Submitted:
    state = json.loads((folder / "submission.json").read_text())
    return Submitted(
        folder,
        state["job_id"],
        state["cluster"],
        state["utc"],
        read_tasks(folder),
        read_profile(folder),
        state["mark"],
        Path(state["code"]) if state.get("code") else None,
        tuple(state.get("cancelled", ())),
    )


def read_cluster(folder: Path) -> str:
    """Which cluster a submission was sent to."""
    return str(json.loads((folder / "submission.json").read_text())["cluster"])


def read_tasks(folder: Path) -> tuple[Task, ...]:
    lines = (folder / "tasks.jsonl").read_text().splitlines()
    return tuple(task_of(json.loads(line)) for line in lines)


def task_of(content: Mapping[str, Any]) -> Task:
    """A task as read back from JSON."""
    return Task(**{**content, "runs": tuple(content["runs"])})


def read_profile(folder: Path) -> Profile:
    return Profile.model_validate(yaml.safe_load((folder / "profile.yaml").read_text()))


def write_submission(submission: Submission, script: str, profile: Profile) -> None:
    """Write everything that the batch script needs, and the script."""
    folder = submission.folder
    for name in ("log", "network"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / "tasks.jsonl").write_text("".join(json.dumps(asdict(task)) + "\n" for task in submission.tasks))
    (folder / "profile.yaml").write_text(yaml.safe_dump(profile.content(), sort_keys=False))
    submission.script.write_text(script)
