"""Sends again what SLURM ended and can go on: for `hpz watch --resubmit`, where nothing requeues a job.

That is what was preempted and cancelled (PreemptMode=CANCEL), lost its driver or its node, reached a time limit, or is
no longer known. Errors of a run's own are not repeated, nor is what `hpz cancel` or scancel ended.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.launch.slurm import scheduler
from harness.launch.slurm.arrays import Submitted, Task, pair_groups
from harness.launch.slurm.clients import Clients, Unanswered
from harness.launch.slurm.ended import steps_reached
from harness.launch.slurm.notify import Kind
from harness.launch.slurm.profile import Profile
from harness.launch.slurm.status import FORGOTTEN, Place, Row, task_places
from harness.launch.slurm.submit import submit
from harness.launch.slurm.waiting import read_waiting
from harness.record import RunDirectory
from harness.study import Study
from harness.system.errors import HarnessError
from harness.system.utc import seconds_since, utc_now

LIMIT = 10  # times that a pair group is sent again, unless said otherwise
FRUITLESS = 2  # of them in a row without a step more: what ends it will end it again
CAN_GO_ON = {"PREEMPTED", "FAILED", "COMPLETED", "TIMEOUT", "NODE_FAIL", "BOOT_FAIL", FORGOTTEN}
WAITING = "what waits"  # for the site to have room; tried as a group is


@dataclass(frozen=True)
class Group:
    """A pair group of which SLURM has no job any more, and something can go on."""

    task: Task
    source: Submitted  # that it was last sent in
    done: tuple[str, ...]
    open: tuple[Row, ...]  # that can go on; runs that ended by themselves are in neither
    steps: int  # that need not be made again

    @property
    def name(self) -> str:
        return self.task.group

    @property
    def why(self) -> str:
        return self.open[0].why

    @property
    def wanted(self) -> set[str]:
        return {*self.done, *(row.run_id for row in self.open)}


@dataclass
class Again:
    """One watch over a study; remembers what was refused and said, and when a group was last tried."""

    study: Study
    results: Path
    limit: int
    say: Callable[[Kind, str], None]
    refused: set[str] = field(default_factory=set)
    said: set[str] = field(default_factory=set)
    tried: dict[str, str] = field(default_factory=dict)
    releases: dict[str, int] = field(default_factory=dict)  # of what SLURM held

    def look(self, rows: Sequence[Row]) -> bool:
        """Send what can go on, and what waited for room; returns whether any of that is still to come."""
        groups = find_groups(self.study, self.results, {row.run_id: row for row in rows})
        batches: dict[Path, list[Group]] = {}
        for group in groups:
            if self.may_send(group):
                batches.setdefault(group.source.folder, []).append(group)
        for batch in batches.values():
            self.send(batch)
        tasks = {row.job: row for row in rows if row.state == "held"}
        held = [self.may_release(row) for row in tasks.values()]
        return any(held) | self.send_waiting() or any(group.name not in self.refused for group in groups)

    def may_send(self, group: Group) -> bool:
        if group.name in self.refused or not self.due(group.name):
            return False
        if over := over_the_limit(group, self.limit, read_again(self.results)):
            self.refuse(group.name, f"{group.why}; {over}")
            return False
        return True

    def may_release(self, row: Row) -> bool:
        """Let a task go that SLURM holds, some times; returns whether it may still go on."""
        name = f"{row.job}, held"
        if self.due(name) and name not in self.refused:
            self.tried[name] = utc_now()
            self.releases[name] = self.releases.get(name, 0) + 1
            if self.releases[name] > FRUITLESS:
                self.refuse(name, f"its launch failed {FRUITLESS + 1} times; see slurmd's log on its node")
                return False
            source = task_places(self.results)[row.run_id][0]
            with suppress(HarnessError):
                Clients.of(source.profile).release(str(row.job))
                self.say("resubmitted", f"job {row.job}: SLURM held it after a failed launch; it is released")
        return name not in self.refused

    def due(self, name: str) -> bool:
        """Whether SLURM may have another answer than when this was last tried."""
        return name not in self.tried or seconds_since(self.tried[name]) >= scheduler.QUERY_SECONDS

    def refuse(self, name: str, why: str) -> None:
        self.refused.add(name)
        self.say("given-up", f"not sent again: {name}: {why}")

    def say_once(self, sentence: str) -> None:
        if sentence not in self.said:
            self.said.add(sentence)
            self.say("waiting", sentence)

    def send(self, groups: Sequence[Group]) -> None:
        """Send groups of one submission as that was sent: by its profile, with its code."""
        source = groups[0].source
        wanted = {run_id for group in groups for run_id in group.wanted}
        profile = source.profile.model_copy(update={"after": ()})  # what it waited for has ended
        sent = self.submitted([group.name for group in groups], wanted, profile, source.code)
        jobs = {task.group: f"{one.job_id}_{index}" for one in sent for index, task in enumerate(one.tasks)}
        for group in groups:
            if job := jobs.get(group.name):
                times = note_again(self.results, group, job)
                total = sum(row.steps for row in group.open)
                self.say(
                    "resubmitted",
                    f"sent again ({times} of {self.limit}): {group.name} as job {job}, "
                    f"at {group.steps} of {total} steps: {group.why}",
                )

    def send_waiting(self) -> bool:
        """Send what the site had no room for, as far as it has now; returns whether anything still waits."""
        waiting = read_waiting(self.results)
        if waiting is None or WAITING in self.refused:
            return False
        if self.due(WAITING):
            wanted = {run_id for task in waiting.tasks for run_id in task.runs}
            for one in self.submitted([WAITING], wanted, waiting.profile, waiting.code):
                self.say(
                    "resubmitted",
                    f"there is room: {len(one.tasks)} pair groups that waited are job {one.job_id}",
                )
        return read_waiting(self.results) is not None

    def submitted(
        self, names: Sequence[str], wanted: set[str], profile: Profile, code: Path | None
    ) -> list[Submitted]:
        """Submit these runs; a refusal of SLURM's is not tried again, no answer is."""
        self.tried |= dict.fromkeys(names, utc_now())
        runs = [run for run in self.study.runs if run.run_id in wanted]
        try:
            return submit(self.study, self.results, profile, self.say_once, runs, code)
        except Unanswered as error:
            self.say("waiting", str(error))
        except HarnessError as error:
            for name in names:
                self.refuse(name, str(error))
        return []


def find_groups(study: Study, results: Path, rows: Mapping[str, Row]) -> list[Group]:
    """The pair groups that can go on and that nothing leads on."""
    places, found = task_places(results), []
    for task in pair_groups(study.runs):
        mine = [rows[run_id] for run_id in task.runs]
        going_on = tuple(row for row in mine if row.run_id in places and can_go_on(row, places[row.run_id]))
        if going_on and not any(row.may_go_on for row in mine):
            done = tuple(row.run_id for row in mine if row.state == "done")
            steps = sum(steps_reached(RunDirectory(results / "runs" / row.run_id)) for row in going_on)
            found.append(Group(task, places[going_on[0].run_id][0], done, going_on, steps))
    return found


def can_go_on(row: Row, place: Place) -> bool:
    """Whether SLURM ended this run, and neither the run itself nor a person did."""
    submitted, task = place
    if task in submitted.cancelled or row.state in ("done", "out-of-memory"):
        return False
    restarts_used_up = row.state == "timed-out" and row.ended_by is None
    return restarts_used_up or row.ended_by in CAN_GO_ON


def over_the_limit(group: Group, limit: int, before: Iterable[Mapping[str, Any]]) -> str | None:
    """Why a group is not to be sent once more, where that is so."""
    mine = [line for line in before if line["group"] == group.name]
    if len(mine) >= limit:
        return f"it was sent again {len(mine)} times (--limit)"
    lately = mine[-FRUITLESS:]
    if len(lately) == FRUITLESS and all(line["steps"] == group.steps for line in lately):
        return f"sent again {FRUITLESS} times it came no step further; see its output in {group.source.folder}/log"
    return None


def note_again(results: Path, group: Group, job: str) -> int:
    """Add a line to slurm/again.jsonl; returns how many this group has there."""
    line = {"utc": utc_now(), "group": group.name, "job": job, "steps": group.steps, "why": group.why}
    with (results / "slurm" / "again.jsonl").open("a") as stream:
        stream.write(json.dumps(line) + "\n")
    return sum(one["group"] == group.name for one in read_again(results))


def read_again(results: Path) -> list[dict[str, Any]]:
    """What was sent again so far, the oldest first."""
    file = results / "slurm" / "again.jsonl"
    found = []
    for line in file.read_text().splitlines() if file.exists() else ():
        with suppress(ValueError):
            found.append(json.loads(line))
    return found
