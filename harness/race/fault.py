"""A fault of the corpus as one YAML file: what it is, who has it, who ended it, what meets it, what must be found.

The program lies beside the file. `load_corpus` reads a folder of them, or one file.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from harness.race.job import Program
from harness.race.report import Race
from harness.race.searched import Frozen
from harness.system.errors import HarnessError
from harness.system.messages import first_message
from harness.system.yaml_file import read_keys
from harness.variants import Variant, released_variant

HINT = "give a fault of the corpus, as experiments/corpus/step-copy.yaml, or a folder of them"


class Side(Frozen):
    """One of the two DeepSpeeds."""

    release: str
    variant: str | None = None  # the patch set; None: as it was released
    patch: str | None = None  # one more, as a file, relative to the fault's

    def __str__(self) -> str:
        patch = f"+ {Path(self.patch).name.partition('-')[0]}" if self.patch else None
        return " ".join(part for part in (self.release, self.variant, patch) if part)

    @property
    def patched(self) -> Variant:
        """Raises HarnessError for a release or a variant that is not known."""
        return Variant.parse(self.variant) if self.variant else released_variant(self.release)


class Find(Frozen):
    """What the analysis must report: its kind, and a function on the call path of each of the two accesses."""

    kind: Literal["race", "freed-in-use", "unwritten-read"] = "race"
    first: str
    second: str

    def is_met_by(self, race: Race) -> bool:
        first, second = ({place.function for place in end.site} for end in (race.first, race.second))
        return race.kind == self.kind and self.first in first and self.second in second


class Fault(Frozen):
    """The content of one file; its name is the file's."""

    fault: str = Field(min_length=20)  # in two sentences
    kind: Literal["order", "lifetime", "unwritten", "index"]  # what is wrong: see docs/reference/corpus.md
    links: tuple[str, ...] = ()
    not_here: str | None = None  # why it cannot be met on a CPU; then nothing is run
    has: Side | None = None
    ended: Side | None = None
    program: str = "loop.py"
    arguments: tuple[str, ...] = ()
    ranks: int = Field(2, ge=1, le=16)
    steps: int | None = Field(None, ge=1)  # as --steps; None: as many as the program makes by itself
    config: dict[str, Any] = Field(default_factory=dict)  # DeepSpeed's keys; the program gets --config JSON
    find: Find | None = None
    shows: Literal["other values", "failure", "none"] = "other values"  # under the schedule that is found
    note: str | None = None  # what else the pair teaches, as what the fix costs

    @model_validator(mode="after")
    def _complete(self) -> Self:
        missing = [name for name in ("has", "ended", "find") if getattr(self, name) is None]
        if self.not_here is None and missing:
            raise ValueError(
                f"{missing[0]} is missing; give has, ended and find, or say under not_here why it cannot be met"
            )
        return self


class Case(Frozen):
    """A fault of the corpus with its name and the folder that it was read from."""

    name: str
    folder: Path
    fault: Fault

    def program(self, side: Side) -> Program:
        """What is run of one side. Raises HarnessError."""
        fault = self.fault
        steps = ("--steps", str(fault.steps)) if fault.steps else ()
        config = ("--config", json.dumps(fault.config)) if fault.config else ()
        return Program(
            ranks=fault.ranks,
            script=str(self.folder / fault.program),
            arguments=(*steps, *config, *fault.arguments),
            variant=side.patched.name,
            release=side.release,
            map_cuda=True,
            patch=str(self.folder / side.patch) if side.patch else None,
        )


def is_corpus(path: Path) -> bool:
    """Whether this is a fault of a corpus or a folder of them, rather than a study or its results."""
    if path.is_dir():
        return not any((path / name).exists() for name in ("study.yaml", "run.json")) and any(
            path.glob("*.yaml")
        )
    return path.suffix == ".yaml" and path.is_file() and "fault" in read_keys(path, HINT)


def load_corpus(path: Path) -> tuple[Case, ...]:
    """The faults of a folder in the order of their names, or the one of a file. Raises HarnessError: file and key."""
    files = sorted(path.glob("*.yaml")) if path.is_dir() else [path]
    return tuple(load_case(file) for file in files)


def load_case(file: Path) -> Case:
    """Raises HarnessError: what is wrong, in which file, at which key."""
    try:
        fault = Fault.model_validate(read_keys(file, HINT))
        case = Case(name=file.stem, folder=file.parent, fault=fault)
        for key in ("has", "ended"):
            _check_side(getattr(fault, key), key, file.parent)
    except ValidationError as error:
        raise HarnessError(f"{file}: {first_message(error, Fault)}") from error
    except HarnessError as error:
        raise HarnessError(f"{file}: {error}") from error
    if fault.not_here is None and not (file.parent / fault.program).is_file():
        raise HarnessError(f"{file}: program: there is no {fault.program} beside it; name one that is")
    return case


def _check_side(side: Side | None, key: str, folder: Path) -> None:
    if side is None:
        return
    if side.patch is not None and not (folder / side.patch).is_file():
        raise HarnessError(f"{key}.patch: there is no {side.patch} there; give its path from this file on")
    try:
        _ = side.patched
    except HarnessError as error:
        raise HarnessError(f"{key}: {error}") from error
