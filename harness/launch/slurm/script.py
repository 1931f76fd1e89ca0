"""The batch script of a submission: a pure function of what is asked for and the cluster's profile."""

from __future__ import annotations

import shlex
from functools import lru_cache
from typing import TYPE_CHECKING

from harness.launch.slurm.arrays import Submission, Task
from harness.launch.slurm.profile import Profile
from harness.system.errors import HarnessError
from harness.system.places import REPOSITORY

if TYPE_CHECKING:
    from jinja2 import Template


EARLIER_SECONDS = 60  # by so much SLURM may send the signal before it is due
START_SECONDS = 30  # until a task listens
TEMPLATE = REPOSITORY / "slurm" / "study.sbatch.j2"


def render(submission: Submission, profile: Profile) -> str:
    """The batch script of a submission, a pure function of its arguments.

    Raises HarnessError where the study asks for more than the profile's nodes have, or a path cannot be written in
    an #SBATCH line.
    """
    first = submission.tasks[0]
    check_lead(profile)
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
        python=(python := profile.python or submission.python),
        cache=str(submission.cache),
        **_start_of_ranks(submission, profile, python),
    )


def check_lead(profile: Profile) -> None:
    """Refuse a signal that may come before a task listens: SLURM sends it once, and up to a minute earlier (sbatch(1),
    --signal)."""
    least = profile.signal_lead_seconds + EARLIER_SECONDS + START_SECONDS
    if profile.limit_seconds < least:
        raise HarnessError(
            f"signal_lead_seconds: {profile.signal_lead_seconds} s before the limit, but profile {profile.name!r} has "
            f"time={profile.time!r}, {profile.limit_seconds} s in all: SLURM sends that signal up to a minute early, "
            f"and it might come before a task has started; set it lower, or time to {least} s or more"
        )


def _start_of_ranks(submission: Submission, profile: Profile, python: str) -> dict[str, list[str]]:
    """The options of srun from the profile, and the words after them, up to the ranks' python."""
    container = profile.container
    if container is None:
        return {"srun_options": list(profile.srun_options), "rank_python": [python]}
    results, gpus = str(submission.folder.parent.parent), submission.tasks[0].device == "cuda"
    inside = container.srun_options(submission.seen, results, profile.environment)
    before = container.before_python(submission.seen, results, gpus)
    return {
        "srun_options": [*profile.srun_options, *inside],
        "rank_python": [*before, container.python(python)],
    }


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
