"""What was found out about nodes, over all allocations of a study, and which of them are to be left out.

results/<study>/slurm/0001/health.jsonl has one line a check. What later checks say counts: a node that was suspected
beside another is cleared or convicted when one of the two is seen with a third.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from harness.launch.slurm.arrays import read_profile
from harness.launch.slurm.health import Finding, Health
from harness.launch.slurm.links import Blame, Transfer, blame
from harness.launch.slurm.profile import Profile
from harness.system.utc import seconds_since, utc_now

FILE = "health.jsonl"


@dataclass(frozen=True)
class Check:
    """One look at the nodes of an allocation."""

    job: str  # ARRAY_TASK/RESTART
    group: str
    nodes: tuple[str, ...]
    findings: tuple[Finding, ...]
    rates: tuple[tuple[str, str, float], ...] = ()  # from, to, Gbit/s
    excluded: tuple[str, ...] = ()  # nodes that the study leaves out from here on
    why_not: str | None = None  # a bad node was kept all the same
    cluster: str = "slurm"
    utc: str = field(default_factory=utc_now)

    def line(self) -> str:
        return json.dumps({"schema": 1, **asdict(self)}) + "\n"

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Check:
        content.pop("schema")
        return cls(
            **content
            | {
                "nodes": tuple(content["nodes"]),
                "findings": tuple(Finding(**finding) for finding in content["findings"]),
                "rates": tuple(tuple(rate) for rate in content["rates"]),
                "excluded": tuple(content["excluded"]),
            }
        )


def read_checks(folder: Path, cluster: str | None = None, hours: float = float("inf")) -> list[Check]:
    """Checks of a study (`folder`: results/<study>/slurm), oldest first: on a cluster, and of the last hours."""
    found = []
    for file in sorted(folder.glob(f"[0-9]*/{FILE}")):
        for text in file.read_text().splitlines():
            try:
                found.append(Check.from_json(json.loads(text)))
            except (ValueError, TypeError, KeyError):
                continue  # half-written by a task that was killed
    kept = [c for c in found if cluster in (None, c.cluster) and seconds_since(c.utc) < 3600 * hours]
    return sorted(kept, key=lambda check: check.utc)


@contextlib.contextmanager
def one_at_a_time(folder: Path) -> Iterator[None]:
    """Tasks of a study that decide at once would leave out more nodes together than the profile allows."""
    with (folder / ".health-lock").open("w") as lock:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def excluded_nodes(checks: Sequence[Check]) -> tuple[str, ...]:
    """What the newest check leaves out."""
    return checks[-1].excluded if checks else ()


def rates_of(checks: Sequence[Check]) -> dict[Transfer, float]:
    """How fast each node last sent to each other, in Gbit/s."""
    return {(sender, receiver): rate for check in checks for sender, receiver, rate in check.rates}


def link_findings(checks: Sequence[Check], health: Health, expected: float | None) -> list[Finding]:
    """What the newest check's nodes are to be blamed for, in the light of all; `expected` in Gbit/s."""
    if expected is None or not checks or not checks[-1].rates:
        return []
    rates = rates_of(checks)
    blamed = blame(rates, health.least(expected))
    found = [
        Finding("links", _slow(node, told, rates, expected), node) for node, told in blamed.guilty.items()
    ]
    if blamed.unsure:
        told = dict.fromkeys(transfer for told in blamed.unsure.values() for transfer in told)
        which = " or ".join(blamed.unsure)
        says = f"which of them is at fault cannot be told without a third node: {which}"
        found.append(Finding("links", f"{_each(told, rates)}, {expected:g} expected; {says}"))
    if blamed.between:
        says = "both do well with others, so it is what lies between them"
        found.append(Finding("links", f"{_each(blamed.between, rates)}, {expected:g} expected; {says}"))
    return found


def _slow(node: str, told: Sequence[Transfer], rates: dict[Transfer, float], expected: float) -> str:
    words = []
    for verb, other, mine in (
        ("sends to", 1, [t for t in told if t[0] == node]),
        ("receives from", 0, [t for t in told if t[1] == node]),
    ):
        if mine:
            names = ", ".join(dict.fromkeys(transfer[other] for transfer in mine))
            words.append(f"{verb} {names} at {min(rates[t] for t in mine):.3g} Gbit/s")
    return f"{' and '.join(words)}, {expected:g} expected"


def _each(told: Sequence[Transfer] | dict[Transfer, None], rates: dict[Transfer, float]) -> str:
    return "; ".join(f"{sender} sends to {to} at {rates[sender, to]:.3g} Gbit/s" for sender, to in told)


def to_leave_out(checks: Sequence[Check], health: Health, expected: float | None) -> list[str]:
    """All nodes that should be left out, those found first coming first; more, maybe, than may be.

    Of two that a slow link accuses alike one is on the list: without it the next allocation tells.
    """
    newest: dict[str, list[Finding]] = {}
    for check in checks:
        for node in check.nodes:
            newest[node] = [f for f in check.findings if f.node == node and f.check != "links"]
    bad = [node for node, findings in newest.items() if findings]
    blamed = blame(rates_of(checks), health.least(expected)) if expected is not None else Blame({}, {})
    return list(dict.fromkeys([*bad, *blamed.guilty, *list(blamed.unsure)[:1]]))


def leaving_out(profile: Profile, folder: Path, cluster: str | None = None) -> Profile:
    """The profile of a new submission: what the study leaves out is excluded beside what the profile excludes."""
    if profile.health is None:
        return profile
    checks = read_checks(folder, cluster, profile.health.exclude_hours)
    nodes = excluded_nodes(checks)[: profile.health.exclude_at_most]
    if not nodes:
        return profile
    option = "--exclude="
    own = [words.removeprefix(option) for words in profile.options if words.startswith(option)]
    kept = tuple(words for words in profile.options if not words.startswith(option))
    listed = ",".join(dict.fromkeys([*own, *nodes]))
    return profile.model_copy(update={"options": (*kept, f"{option}{listed}")})


@dataclass(frozen=True)
class NodeNote:
    """What is known against a node, for people; `node` None: against none alone."""

    node: str | None
    says: str
    left_out: bool
    why_not: str | None
    job: str  # ARRAY_TASK/RESTART that saw it last
    utc: str

    @property
    def sentence(self) -> str:
        kept = f" (not left out: {self.why_not})" if self.why_not else ""
        fate = f"{self.node} is left out: " if self.left_out else f"{self.node}: " if self.node else ""
        return f"{fate}{self.says}{kept}; job {self.job}, {self.utc}"


def node_notes(folder: Path) -> list[NodeNote]:
    """What the last checks of a study found wrong, node by node; nothing of nodes that have been well since.

    A check counts for as long as the profile of the newest submission leaves nodes out.
    """
    profiles = [read_profile(file.parent) for file in sorted(folder.glob("[0-9]*/profile.yaml"))[-1:]]
    health = next((profile.health for profile in profiles if profile.health), Health())
    checks = read_checks(folder, hours=health.exclude_hours)
    out = excluded_nodes(checks)
    notes: dict[tuple[str | None, str], NodeNote] = {}
    for check in checks:
        for node, kind in list(notes):
            if node is None or node in check.nodes or (kind == "links" and check.rates):
                del notes[node, kind]  # this look is newer
        for one in check.findings:
            left_out = one.node in out
            why_not = check.why_not if one.node and not left_out else None
            notes[one.node, one.check] = NodeNote(one.node, one.says, left_out, why_not, check.job, check.utc)
    told = {note.node for note in notes.values()}
    suspects = [node for node in out if node not in told]
    trial = "one of two that a slow link accuses; the next look tells"
    last = checks[-1] if suspects else None
    return [
        *notes.values(),
        *(NodeNote(node, trial, True, None, last.job, last.utc) for node in suspects if last),
    ]
