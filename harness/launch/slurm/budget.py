"""A budget of GPU-hours for a study: what is used, what is still to come, and no submission beyond it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from harness.launch.slurm.arrays import Submission, Task, pair_groups
from harness.launch.slurm.ended import steps_reached
from harness.launch.slurm.profile import Profile
from harness.record import RunDirectory
from harness.record.hours import planned_hours, study_hours
from harness.study import Run, Study
from harness.system.errors import HarnessError


def check_budget(
    study: Study, results: Path, profile: Profile, planned: Sequence[Submission], queued: Collection[str]
) -> None:
    """Refuse what would lead beyond the profile's budget, with all that was used of it. Raises HarnessError.

    What is still to come is what is to be sent and what SLURM has, `queued`, already.
    """
    asked = [task for submission in planned for task in submission.tasks]
    if profile.budget is None or not asked:
        return
    total = study_hours(study, results)[-1]
    going_on = [task for task in pair_groups(study.runs) if task.group in queued]
    asked_hours, how = hours_to_come(study, results, profile, asked)
    going_hours, _ = hours_to_come(study, results, profile, going_on)
    over = total.used + going_hours + asked_hours - profile.budget
    if over <= 0:
        return
    sent = f", {_number(going_hours)} may go to what is in the queue" if going_on else ""
    raise HarnessError(
        f"budget: {_number(profile.budget)} {total.unit}, of which {_number(total.used)} are used{sent}, and "
        f"{len(asked)} pair groups to be sent take {_number(asked_hours)} {how}: {_number(over)} too many; raise "
        "--budget (or budget in the profile), or take runs out of the study"
    )


def hours_to_come(study: Study, results: Path, profile: Profile, tasks: Iterable[Task]) -> tuple[float, str]:
    """Hours that the missing steps of these groups will take, and how that is known.

    Planned from FLOPs where the study names its card; else the most that one allocation of each group may take.
    """
    runs = {run.run_id: run for run in study.runs}
    mine = list(tasks)
    left = [_hours_left(runs[run_id], study, results) for task in mine for run_id in task.runs]
    known = [hours for hours in left if hours is not None]
    if len(known) == len(left):
        return sum(known), f"as planned at an MFU of {study.plan.mfu:.0%}"
    ranks = sum(task.nodes * task.ranks_per_node for task in mine)
    return ranks * profile.limit_seconds / 3600, f"at most, by their time limit of {profile.time}"


def _hours_left(run: Run, study: Study, results: Path) -> float | None:
    whole = planned_hours(run, study)
    if whole is None:
        return None
    return whole * (1 - steps_reached(RunDirectory(results / "runs" / run.run_id)) / run.training.steps)


def _number(hours: float) -> str:
    return f"{hours:,.0f}" if hours >= 100 else f"{hours:.3g}"
