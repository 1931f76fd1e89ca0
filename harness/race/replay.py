"""Replay files: a schedule, the program that it belongs to, and what it must reproduce to the bit."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from harness.race.explore import Found, has_changed
from harness.race.job import Job, Outcome
from harness.race.report import Race
from harness.record.provenance import package_versions
from harness.study import Run
from harness.system.errors import HarnessError
from harness.system.whole_file import write_json


class Values(BaseModel):
    """What an execution ended with: one digest a rank, a run's losses as written, what was read; or how it failed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    digests: tuple[str | None, ...]
    losses: tuple[str, ...] = ()
    reads: tuple[str | None, ...] = ()  # what the host of each rank read hashes to; none: not compared
    problem: str | None = None

    @classmethod
    def of(cls, outcome: Outcome) -> Values:
        if outcome.problem is None:
            return cls(digests=outcome.digests, losses=outcome.losses, reads=outcome.reads)
        # Which rank fails first, and how far the others came until they were ended, is chance.
        return cls(digests=(), problem=re.sub(r"^rank \d+ ", "", outcome.problem))


class Replay(BaseModel):
    """The content of a replay file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["hpz race replay"] = "hpz race replay"
    schema_version: Literal[1] = 1
    job: dict[str, Any]
    script_sha256: str | None
    races: tuple[Race, ...]
    story: tuple[str, ...]
    reference: Values  # the order of issue
    expected: Values  # this schedule
    versions: dict[str, str | None]


def write_replay(file: Path, found: Found, races: tuple[Race, ...], story: tuple[str, ...]) -> None:
    """Save a found schedule."""
    program = found.job.program
    reference, expected = Values.of(found.reference), Values.of(found.outcome)
    if not reference.reads:  # they were not compared
        expected = expected.model_copy(update={"reads": ()})
    replay = Replay(
        job=json.loads(found.job.json()),
        script_sha256=_sha256(program.script) if program.script else None,
        races=tuple(race.model_copy(update={"window": ()}) for race in races),
        story=story,
        reference=reference,
        expected=expected,
        versions=package_versions(),
    )
    file.parent.mkdir(parents=True, exist_ok=True)
    write_json(file, replay.model_dump(mode="json"))


def read_replay(file: Path) -> tuple[Replay, Job]:
    """The replay and its job. Raises HarnessError where the file is no replay or its script has changed."""
    try:
        replay = Replay.model_validate_json(file.read_text())
        job = Job.parse(replay.job)
    except OSError as error:
        raise HarnessError(
            f"{file}: cannot be read ({error.strerror}); give a file that hpz race wrote"
        ) from error
    except (ValidationError, ValueError, KeyError, TypeError) as error:
        raise HarnessError(f"{file}: is not a replay file; give one that hpz race wrote") from error
    script = job.program.script
    if script is not None and _sha256(script) != replay.script_sha256:
        raise HarnessError(
            f"{script} is not the script that {file} was found with; run hpz race --script on it anew"
        )
    return replay, job


@dataclass(frozen=True)
class Again:
    """What the schedule of a replay gave here."""

    same: bool  # every bit is as recorded
    outcome: Outcome
    issued: tuple[Outcome, ...]  # the order of issue here, run twice where not every bit is as recorded
    changed: tuple[str, ...]  # in words: what is not as when the schedule was found

    @property
    def chance(self) -> bool:
        """Whether the order of issue does not end twice alike, so that nothing can be said of another one."""
        return any(has_changed(self.issued[0], other) for other in self.issued)

    @property
    def shows(self) -> bool:
        """Whether the race shows: to the bit, or by values that are not those of the order of issue here."""
        if self.same:
            return True
        return (
            self.issued[0].problem is None and not self.chance and has_changed(self.issued[0], self.outcome)
        )


def replayed(replay: Replay, job: Job, run: Callable[[Job], Outcome]) -> Again:
    """Run the schedule again and, where not every bit comes out as recorded, the order of issue beside it."""
    job, changed = as_here(job)
    outcome = run(job)
    values = Values.of(outcome)
    if not replay.expected.reads:
        values = values.model_copy(update={"reads": ()})
    same = _anywhere(values) == _anywhere(replay.expected)
    in_order = job.under("scripted", excerpt=False)
    issued = () if same else (run(in_order), run(in_order))
    return Again(same, outcome, issued, (*changed_versions(replay), *changed))


def as_here(job: Job) -> tuple[Job, tuple[str, ...]]:
    """The job with the text of this machine, where its run reads the standard library; and whether that is another."""
    if job.program.run is None:
        return job, ()
    run = Run.model_validate(job.program.run)
    data = run.data.as_here()
    if data == run.data:
        return job, ()
    content = run.model_copy(update={"data": data}).model_dump(mode="json")
    return replace(job, program=replace(job.program, run=content)), (
        "its text, Python's standard library, is another here",
    )


def _anywhere(values: Values) -> Values:
    """Without the place of a failure, whose file is named from where the user stands."""
    problem = None if values.problem is None else re.sub(r" \(in [^()]*\)", "", values.problem)
    return values.model_copy(update={"problem": problem})


def changed_versions(replay: Replay) -> list[str]:
    """The packages that are not those that the schedule was found with, in words."""
    now = package_versions()
    return [
        f"{name} was {then or 'absent'}, is {now.get(name) or 'absent'}"
        for name, then in replay.versions.items()
        if now.get(name) != then
    ]


def _sha256(file: str) -> str | None:
    path = Path(file)
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None
