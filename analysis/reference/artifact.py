"""The artefact: runs what it claims, and says of each claim what was expected, what was found, and whether they agree.

Claims are data (artifact.yaml); what is expected stands in the committed reference results, in the place of a summary
where the report has it from, or is a number that is written down once, there.
"""

from __future__ import annotations

import json
import math
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field

from analysis.judge.look_up import look_up
from analysis.judge.summary import summarise_folder
from harness.system.child import last_words
from harness.system.errors import HarnessError
from harness.system.places import REPOSITORY
from harness.system.whole_file import write_json

FILE = Path(__file__).with_name("artifact.yaml")


class Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Step(Frozen):
    """A command, and where it leaves its numbers: in a JSON file, else on standard output."""

    id: str
    says: str
    command: str
    leaves: str | None = None
    kick: bool = False


class Reference(Frozen):
    """The number at the same place of a study's committed reference results."""

    reference: str


class Relative(Frozen):
    relative: float = Field(gt=0)


class Claim(Frozen):
    id: str
    says: str
    step: str
    at: str
    expected: Reference | int | float | str | bool
    tolerance: Literal["exact", "at_most"] | Relative = "exact"


class Artifact(Frozen):
    steps: tuple[Step, ...]
    claims: tuple[Claim, ...]


@dataclass(frozen=True)
class Found:
    """One claim: `found` is None where its command failed, and `why` says how."""

    claim: Claim
    expected: Any
    found: Any
    ok: bool
    why: str = ""


def artifact() -> Artifact:
    """What the artefact claims."""
    return Artifact.model_validate(yaml.safe_load(FILE.read_text()))


def examine(out: Path, kick: bool, say: Callable[[str], None]) -> list[Found]:
    """Run the steps (`kick`: those of kick-the-tires), and hold each claim against what they left. HarnessError."""
    what = artifact()
    steps = [step for step in what.steps if step.kick or not kick]
    out = out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    found: list[Found] = []
    for number, step in enumerate(steps, 1):
        say(f"[{number}/{len(steps)}] {step.id}: {step.says}")
        started = time.monotonic()
        content, why = _run(step, out)
        claims = [claim for claim in what.claims if claim.step == step.id]
        found += [_hold(claim, content, why) for claim in claims]
        say(f"      {time.monotonic() - started:.0f} s{f'; failed: {why}' if why else ''}")
    record = [{**vars(one), "claim": one.claim.model_dump(mode="json")} for one in found]
    write_json(out / "artifact.json", {"kick": kick, "claims": record})
    return found


def _run(step: Step, out: Path) -> tuple[Any, str]:
    """What a step left, and why it left nothing."""
    hpz = f"{shlex.quote(sys.executable)} -m harness.cli"
    places = {"out": shlex.quote(str(out)), "here": shlex.quote(str(REPOSITORY)), "hpz": hpz}
    command = step.command.format(python=shlex.quote(sys.executable), **places)
    done = subprocess.run(
        ["bash", "-c", command], cwd=REPOSITORY, capture_output=True, text=True,
        errors="replace", check=False,
    )  # fmt: skip
    (out / f"{step.id}.log").write_text(f"$ {command}\n{done.stderr}{done.stdout}")
    if done.returncode:
        return None, last_words(done.stderr)
    try:
        if step.leaves is None:
            return json.loads(done.stdout), ""
        return json.loads(Path(step.leaves.format(out=out)).read_text()), ""
    except (OSError, ValueError) as error:
        return None, str(error)


def _hold(claim: Claim, content: Any, why: str) -> Found:
    expected: Any = claim.expected
    if isinstance(expected, Reference):
        expected = look_up(_reference(expected.reference), claim.at)
    if why:
        return Found(claim, expected, None, False, why)
    try:
        found = look_up(content, claim.at)
    except HarnessError as error:
        return Found(claim, expected, None, False, str(error))
    return Found(claim, expected, found, agrees(expected, found, claim.tolerance))


@cache
def _reference(study: str) -> Mapping[str, Any]:
    return summarise_folder(REPOSITORY / "results" / "reference" / study)


def agrees(expected: Any, found: Any, tolerance: Literal["exact", "at_most"] | Relative) -> bool:
    """Whether what was found is what was expected, within the tolerance."""
    if isinstance(tolerance, Relative):
        return math.isclose(expected, found, rel_tol=tolerance.relative)
    return bool(found <= expected if tolerance == "at_most" else found == expected)


def table(found: Sequence[Found]) -> Iterator[str]:
    """Lines of a table: claim, expected, found, ok or different."""
    rows = [("claim", "expected", "found", "")]
    for one in found:
        margin = one.claim.tolerance
        limit = f"≤ {one.expected}" if margin == "at_most" else _number(one.expected)
        limit += f" ± {margin.relative:.0%}" if isinstance(margin, Relative) else ""
        shown = _number(one.found) if not one.why else "–"
        rows.append((one.claim.says, limit, shown, "ok" if one.ok else "DIFFERENT"))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def page() -> str:
    """The steps and claims as ARTIFACT.md shows them."""
    what = artifact()
    lines = ["| step | what it does | kick |", "|---|---|---|"]
    lines += [f"| `{step.id}` | {step.says} | {'yes' if step.kick else ''} |" for step in what.steps]
    lines += ["", "| claim | step | expected | tolerance |", "|---|---|---|---|"]
    for claim in what.claims:
        expected = claim.expected
        shown = (
            f"as in `results/reference/{expected.reference}`"
            if isinstance(expected, Reference)
            else f"{_number(expected)}"
        )
        margin = claim.tolerance
        limit = f"{margin.relative:.0%}" if isinstance(margin, Relative) else margin.replace("_", " ")
        lines.append(f"| {claim.says} | `{claim.step}` | {shown} | {limit} |")
    return "\n".join(lines)


def _number(value: Any) -> str:
    return (
        f"{value:.4g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)
    )
