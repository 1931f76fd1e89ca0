"""What a site has no room for yet: kept in slurm/waiting.json of a study until it is sent."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from harness.launch.slurm.arrays import Submission, Task, task_of
from harness.launch.slurm.profile import Profile
from harness.system.whole_file import write_json


@dataclass(frozen=True)
class Waiting:
    """Pair groups that were asked for and not sent, with what they are to be sent by."""

    why: str
    profile: Profile
    code: Path
    tasks: tuple[Task, ...]


def cut(planned: Sequence[Submission], room: int) -> tuple[list[Submission], tuple[Task, ...]]:
    """The arrays, the last one shortened, that have no more tasks than there is room for; and the tasks left over."""
    now: list[Submission] = []
    later: list[Task] = []
    for submission in planned:
        fitting = submission.tasks[: max(room, 0)]
        room -= len(fitting)
        later += submission.tasks[len(fitting) :]
        if fitting:
            now.append(replace(submission, tasks=fitting))
    return now, tuple(later)


def waiting_sentence(why: str, tasks: Sequence[Task]) -> str:
    """What waits, why, and how it is sent."""
    groups = "1 pair group waits" if len(tasks) == 1 else f"{len(tasks)} pair groups wait"
    return (
        f"{groups}, as {why}; send the rest with the same hpz submit once others have ended, or leave it to hpz watch "
        "--resubmit"
    )


def remember_waiting(results: Path, waiting: Waiting, planned: Iterable[Submission]) -> None:
    """Keep what waits; what waited before and was not `planned` now waits on."""
    now = {task.group for submission in planned for task in submission.tasks}
    before = read_waiting(results)
    still = tuple(task for task in before.tasks if task.group not in now) if before else ()
    tasks = (*still, *waiting.tasks)
    if not tasks:
        forget_waiting(results)
        return
    content = {
        "schema_version": 1,
        "why": waiting.why,
        "profile": waiting.profile.content(),
        "code": str(waiting.code),
        "tasks": [asdict(task) for task in tasks],
    }
    write_json(_file(results), content)


def forget_waiting(results: Path) -> None:
    """Nothing waits any more."""
    _file(results).unlink(missing_ok=True)


def read_waiting(results: Path) -> Waiting | None:
    """What waits; None where nothing does."""
    try:
        content = json.loads(_file(results).read_text())
    except OSError:
        return None
    tasks = tuple(task_of(task) for task in content["tasks"])
    return Waiting(content["why"], Profile.model_validate(content["profile"]), Path(content["code"]), tasks)


def _file(results: Path) -> Path:
    return results / "slurm" / "waiting.json"
