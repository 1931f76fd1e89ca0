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
from pydantic import BaseModel, ConfigDict, Field, field_validator

from analysis.judge.evidence import LEVELS
from analysis.judge.look_up import look_up
from analysis.judge.summary import summarise_folder
from harness.system.child import last_words
from harness.system.errors import HarnessError
from harness.system.memory import peak_of
from harness.system.places import REPOSITORY
from harness.system.whole_file import write_json

CORPUS = "corpus.json"
FILE = Path(__file__).with_name("artifact.yaml")


class Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Takes(Frozen):
    """What a step took on two cores."""

    minutes: float
    memory_gb: float  # at the most, of all its processes together
    disk_mb: int


class Step(Frozen):
    """A command, and where it leaves its numbers: in a JSON file, else on standard output."""

    id: str
    says: str
    command: str
    leaves: str | None = None
    evidence: str | None = None  # a level; None where nothing was run or simulated
    kick: bool = False
    takes: Takes | None = None

    @field_validator("evidence")
    @classmethod
    def _known(cls, level: str | None) -> str | None:
        if level not in (None, *LEVELS):
            raise ValueError(f"{level!r} is no evidence level; one of {', '.join(LEVELS)}")
        return level

    @property
    def level(self) -> str:
        return self.evidence or "arithmetic"


class Reference(Frozen):
    """The number at the same place of the committed reference results of a study, or of the corpus."""

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
    level: str
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
    taken: dict[str, dict[str, float | None]] = {}
    for number, step in enumerate(steps, 1):
        say(f"[{number}/{len(steps)}] {step.id}: {step.says}")
        started, before = time.monotonic(), _size(out)
        content, why, memory = _run(step, out)
        claims = [claim for claim in what.claims if claim.step == step.id]
        found += [_hold(claim, step.level, content, why) for claim in claims]
        seconds = time.monotonic() - started
        taken[step.id] = {"seconds": seconds, "memory_bytes": memory, "disk_bytes": _size(out) - before}
        held = "" if memory is None else f", at most {memory / 1e9:.1f} GB of memory"
        say(f"      {seconds:.0f} s{held}{f'; failed: {why}' if why else ''}")
    record = [{**vars(one), "claim": one.claim.model_dump(mode="json")} for one in found]
    write_json(out / "artifact.json", {"kick": kick, "steps": taken, "claims": record})
    return found


def _run(step: Step, out: Path) -> tuple[Any, str, int | None]:
    """What a step left, why it left nothing, and the bytes of memory it held at the most."""
    hpz = f"{shlex.quote(sys.executable)} -m harness.cli"
    places = {"out": shlex.quote(str(out)), "here": shlex.quote(str(REPOSITORY)), "hpz": hpz}
    command = step.command.format(python=shlex.quote(sys.executable), **places)
    running = subprocess.Popen(
        ["bash", "-c", command], cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        errors="replace",
    )  # fmt: skip
    with peak_of(running.pid) as peak:
        printed, said = running.communicate()
    (out / f"{step.id}.log").write_text(f"$ {command}\n{said}{printed}")
    if running.returncode:
        return None, last_words(said), peak.nbytes
    try:
        text = printed if step.leaves is None else Path(step.leaves.format(out=out)).read_text()
        return json.loads(text), "", peak.nbytes
    except (OSError, ValueError) as error:
        return None, str(error), peak.nbytes


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _hold(claim: Claim, level: str, content: Any, why: str) -> Found:
    expected = _expected(claim)
    if why:
        return Found(claim, level, expected, None, False, why)
    try:
        found = look_up(content, claim.at)
    except HarnessError as error:
        return Found(claim, level, expected, None, False, str(error))
    return Found(claim, level, expected, found, agrees(expected, found, claim.tolerance))


def _expected(claim: Claim) -> Any:
    if isinstance(claim.expected, Reference):
        return look_up(_reference(claim.expected.reference), claim.at)
    return claim.expected


@cache
def _reference(study: str) -> Mapping[str, Any]:
    folder = REPOSITORY / "results" / "reference" / study
    if (folder / CORPUS).exists():
        return dict(json.loads((folder / CORPUS).read_text()))
    return summarise_folder(folder)


def agrees(expected: Any, found: Any, tolerance: Literal["exact", "at_most"] | Relative) -> bool:
    """Whether what was found is what was expected, within the tolerance."""
    if isinstance(tolerance, Relative):
        return math.isclose(expected, found, rel_tol=tolerance.relative)
    return bool(found <= expected if tolerance == "at_most" else found == expected)


def table(found: Sequence[Found]) -> Iterator[str]:
    """Lines of a table: claim, evidence, expected, found, ok or different."""
    rows = [("claim", "evidence", "expected", "found", "")]
    for one in found:
        margin = one.claim.tolerance
        limit = f"≤ {one.expected}" if margin == "at_most" else _number(one.expected)
        limit += f" ± {margin.relative:.0%}" if isinstance(margin, Relative) else ""
        shown = _number(one.found) if not one.why else "–"
        rows.append((one.claim.says, one.level, limit, shown, "ok" if one.ok else "DIFFERENT"))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def page() -> str:
    """The steps and claims as ARTIFACT.md shows them."""
    what = artifact()
    lines = [
        "| step | what it does | evidence | minutes | memory | disk | kick |",
        "|---|---|---|---|---|---|---|",
    ]
    for step in what.steps:
        took = step.takes
        cells = ("–",) * 3
        if took is not None:
            disk = f"{took.disk_mb} MB" if took.disk_mb else "under 1 MB"
            cells = (f"{took.minutes:g}", f"{took.memory_gb:g} GB", disk)
        kick = "yes" if step.kick else ""
        lines.append(f"| `{step.id}` | {step.says} | {step.level} | {' | '.join(cells)} | {kick} |")
    lines += ["", "| claim | step | expected | tolerance |", "|---|---|---|---|"]
    for claim in what.claims:
        shown = _number(_expected(claim))
        if isinstance(claim.expected, Reference):
            shown += f", as in `results/reference/{claim.expected.reference}`"
        margin = claim.tolerance
        limit = f"{margin.relative:.0%}" if isinstance(margin, Relative) else margin.replace("_", " ")
        lines.append(f"| {claim.says} | `{claim.step}` | {shown} | {limit} |")
    lines += ["", "The commands, in the checkout (`{here}`); `{out}` is the folder of the artefact:", ""]
    lines += ["| step | command |", "|---|---|"]
    lines += [f"| `{step.id}` | {_command(step)} |" for step in what.steps]
    return "\n".join(lines)


def _command(step: Step) -> str:
    """The command as somebody would type it."""
    text = step.command.format(python="python", hpz="hpz", here="{here}", out="{out}")
    return f"`` {text.replace('|', chr(92) + '|')} ``"


def _number(value: Any) -> str:
    return (
        f"{value:.4g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)
    )
