"""Triage: which known fault a training curve looks like, by the stated rules below, given configuration and release.

A *sign* is something seen in the curve or known of the run; a rule says how many points a sign gives for or against a
fault, and why. Exposure (`harness.diagnose.faults`) rules faults out. The rules are tested on runs that really have
each fault.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from harness.diagnose.cases import ENTRIES, Case
from harness.diagnose.judges import Answer
from harness.diagnose.rules import FAULTS, NEVER_EXCLUDED, NEXT, RULES
from harness.diagnose.signs import curve_signs

ENOUGH = 3  # points that name a fault


@dataclass(frozen=True)
class Evidence:
    points: int
    sign: str
    seen: str
    """What was seen, with its numbers."""
    reason: str


@dataclass(frozen=True)
class Finding:
    """One fault: its points and why."""

    fault: str
    points: int
    ruled_out: str | None
    evidence: tuple[Evidence, ...]


@dataclass(frozen=True)
class Triage:
    """The answer. `verdict` is a fault, `nothing`, or `unrecognised` (a broken curve that no rule names)."""

    source: str
    verdict: str
    possible: tuple[str, ...]
    """Other faults that the rules name as well, the likeliest first."""
    signs: Mapping[str, str]
    findings: tuple[Finding, ...]
    next: tuple[str, ...]
    notes: tuple[str, ...]

    def as_record(self) -> dict[str, Any]:
        return {"schema_version": 1, **asdict(self)}


def triage(case: Case) -> Triage:
    """Weigh the signs of a case by the rules."""
    of_curve = curve_signs(case)
    findings = sorted((_weigh(fault, of_curve, case) for fault in FAULTS), key=_order)
    named = (
        [one.fault for one in findings if one.ruled_out is None and one.points >= ENOUGH] if of_curve else []
    )
    wrong = of_curve.keys() - {"does not learn"}
    verdict = named[0] if named else "unrecognised" if wrong else "nothing"
    return Triage(
        source=case.source,
        verdict=verdict,
        possible=tuple(named[1:]),
        signs=of_curve,
        findings=tuple(findings),
        next=NEXT[verdict],
        notes=(*case.curve.notes, *_notes(case, of_curve)),
    )


def _order(finding: Finding) -> tuple[bool, int]:
    return (finding.ruled_out is not None, -finding.points)


def _weigh(fault: str, of_curve: Mapping[str, str], case: Case) -> Finding:
    answer, reason = _exposure(fault, case)
    ruled_out = reason if answer == "no" and fault not in NEVER_EXCLUDED else None
    seen = dict(of_curve)
    if answer == "yes":
        seen["exposed"] = reason
    if case.hpz is False or (case.exposed and all(_exposure(one, case)[0] == "no" for one in ENTRIES)):
        seen["no known fault"] = "hpZ is off" if case.hpz is False else "every known fault is ruled out"
    evidence = tuple(
        Evidence(rule.points, rule.sign, seen[rule.sign], rule.reason)
        for rule in RULES
        if rule.fault == fault and rule.sign in seen
    )
    return Finding(fault, sum(one.points for one in evidence), ruled_out, evidence)


def _exposure(fault: str, case: Case) -> tuple[Answer, str]:
    """The strongest answer of the fault's entries, and its reason."""
    entries = [case.exposed[name] for name in ENTRIES.get(fault, ()) if name in case.exposed]
    for answer in ("yes", "unknown", "no"):
        for entry in entries:
            if entry.exposed == answer:
                return entry.exposed, entry.reason
    return "unknown", "not known: no configuration or release was given"


def _notes(case: Case, of_curve: Mapping[str, str]) -> list[str]:
    """What the reader must know to weigh the answer."""
    notes = [] if case.exposed else ["judged by the curve alone; --config and --release rule faults out"]
    if "does not learn" in of_curve:
        notes.append(f"{of_curve['does not learn']}; that alone names no fault")
    only_gradients = np.isinf(case.curve.grad_norm).any() and not np.isnan(case.curve.loss).any()
    if only_gradients and case.loss_scaling is None:
        notes.append("only gradient norms are not finite; that is usual in fp16, so give --config")
    open_ones = (case.exposed[name] for name in ("race", "missing copy", "offload") if name in case.exposed)
    return notes + [f"{one.fault}: {one.reason}" for one in open_ones if one.exposed == "unknown"]


# Signs of the curve: name → what was seen. Each is a small function of the case that returns None where it is absent.
