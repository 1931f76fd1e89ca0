"""Triage: which known fault a training curve looks like, given configuration and release.

A *sign* is something seen in the curve; a fault's entry says how many points a sign gives for or against it. Exposure
(`harness.diagnose.faults`) adds to them or rules the fault out. No fault that settings decide is named by a curve
alone. The rules are measured on curves with and without each fault: docs/explanation/triage.md has the table.
"""

from __future__ import annotations

import re
from typing import Literal

from harness.diagnose.against import compared
from harness.diagnose.broken import overflows
from harness.diagnose.cases import Case
from harness.diagnose.faults import Exposure, Fault, Frozen, named, table, worst_first
from harness.diagnose.hints import curve_signs, too_noisy
from harness.diagnose.signs import HARD

ENOUGH = 3  # points that name a fault
SAID = 8  # points of an error message that names a fault
SHORT = 5  # finite steps; fewer show nothing
BONUS = {"yes": 2, "unknown": 1, "not examined": 1}
EXCLUDED = ("safe by release", "safe by setting", "not applicable")

OF_DEEPSPEED = ("hpz", "zeropp", "zero3", "zero12")  # tables of faults

OF_PRECISION = "Does it train in fp16? Give --config ds_config.json."

Sure = Literal["certain", "likely", "possible", "none"]
Verdict = Literal["fault", "broken", "at risk", "too short", "healthy"]


class Evidence(Frozen):
    points: int
    sign: str
    seen: str
    """What was seen, with its numbers."""


class Finding(Frozen):
    """One fault: its points and why."""

    fault: str
    points: int
    exposed: str
    """The setup's exposure (`harness.diagnose.judges.Answer`); empty where settings say nothing of it."""
    ruled_out: str | None
    evidence: tuple[Evidence, ...]


class Triage(Frozen):
    """The answer.

    `verdict`: a fault is named (`fault`); something is wrong and none is (`broken`); nothing is seen, but the setup is
    exposed to a fault that may stay unseen (`at risk`); too few steps to say (`too short`); or nothing is wrong.
    """

    schema_version: Literal[2] = 2
    source: str
    headline: str
    """One line of 80 columns: what is wrong, how sure, what to do first."""
    verdict: Verdict
    fault: str
    """The id of the fault that is named, or of the first that the setup is at risk of; else empty."""
    sure: Sure
    possible: tuple[str, ...]
    """Other faults that would explain it, the likeliest first."""
    question: str
    """The one question whose answer would decide; empty where none would."""
    signs: dict[str, str]
    findings: tuple[Finding, ...]
    next: tuple[str, ...]
    notes: tuple[str, ...]


def triage(case: Case) -> Triage:
    """Weigh the signs of a case."""
    signs = curve_signs(case)
    findings = _findings(case, signs)
    ranked = [one for one in findings if one.ruled_out is None and one.points >= ENOUGH]
    hard = [seen for name, seen in signs.items() if name in HARD]
    chosen = _chosen(case, ranked, bool(hard) or _said(case))
    risks = _risks(case)
    verdict = _verdict(case, chosen, bool(hard), risks)
    fault = chosen.fault if chosen else risks[0].fault if verdict == "at risk" else ""
    sure = _sure(case, chosen, ranked, signs)
    others = [one.fault for one in ranked if one.fault != fault] if verdict in ("fault", "broken") else []
    question = _question(case, ranked) if verdict == "broken" or sure == "possible" else ""
    if verdict == "healthy" and _only_in_fp16(case):
        question = OF_PRECISION
    return Triage(
        source=case.source,
        headline=_headline(case, verdict, fault, sure, hard, question),
        verdict=verdict,
        fault=fault,
        sure=sure,
        possible=tuple(others[:5]),
        question=question,
        signs=signs,
        findings=tuple(findings),
        next=_next(case, verdict, fault, question),
        notes=tuple(_notes(case, signs, risks, verdict)),
    )


def _findings(case: Case, signs: dict[str, str]) -> list[Finding]:
    found = [_weigh(fault, case, signs) for fault in table() if fault.shows or fault.errors]
    known = [one for one in found if one.ruled_out is None and one.points >= ENOUGH]
    if case.exposed and not any(named(one.fault).of_settings for one in known):
        seen = signs | {"no known fault": "no known fault of DeepSpeed is open to this run"}
        found = [_weigh(fault, case, seen) for fault in table() if fault.shows or fault.errors]
    elsewhere = _framework(case)
    return sorted(
        (one for one in found if one.evidence),
        key=lambda one: (
            one.ruled_out is not None,
            bool(elsewhere) and named(one.fault).table in OF_DEEPSPEED,
            -one.points,
        ),
    )


def _framework(case: Case) -> str:
    """The framework of a log that names no DeepSpeed, where the user names none of its settings either."""
    told = not case.exposed and (case.setup is None or not case.setup.has_config)
    return case.curve.told.framework if told else ""


def _weigh(fault: Fault, case: Case, signs: dict[str, str]) -> Finding:
    exposure = case.exposed.get(fault.id)
    evidence = [
        Evidence(points=points, sign=sign, seen=signs[sign])
        for sign, points in fault.shows.items()
        if sign in signs
    ]
    evidence += [
        Evidence(points=SAID, sign="error", seen=line)
        for line in [line for line in case.curve.errors if _matches(fault, line)][:1]
    ]
    if exposure is not None and exposure.exposed in BONUS and any(one.points > 0 for one in evidence):
        evidence.append(Evidence(points=BONUS[exposure.exposed], sign=exposure.exposed, seen=exposure.reason))
    ruled_out = exposure.reason if exposure is not None and exposure.exposed in EXCLUDED else None
    return Finding(
        fault=fault.id,
        points=sum(one.points for one in evidence),
        exposed="" if exposure is None else exposure.exposed,
        ruled_out=ruled_out,
        evidence=tuple(evidence),
    )


def _matches(fault: Fault, line: str) -> bool:
    return any(re.search(pattern, line) for pattern in fault.errors)


def _said(case: Case) -> bool:
    """Whether an error message names a fault."""
    return any(_matches(fault, line) for line in case.curve.errors for fault in table())


def _chosen(case: Case, ranked: list[Finding], wrong: bool) -> Finding | None:
    """The finding that is named: the first, where the curve and what is known of the setup suffice for that."""
    if not ranked:
        return None
    first = ranked[0]
    of_settings = named(first.fault).of_settings
    said = any(one.sign == "error" for one in first.evidence)
    if of_settings and not said and not _configured(case):
        return None
    exposed = _exposed(case, first.fault)
    if not wrong and not (exposed == "yes" or (exposed == "unknown" and first.points > ENOUGH)):
        return None  # soft signs alone name only what the setup may have
    return first


def _configured(case: Case) -> bool:
    return bool(case.exposed) and (case.setup is None or case.setup.has_config)


def _exposed(case: Case, fault: str) -> str:
    return case.exposed[fault].exposed if fault in case.exposed else ""


def _risks(case: Case) -> list[Exposure]:
    """Faults that the setup surely has and that may give wrong numbers unseen, the worst first."""
    risks = [one for one in case.exposed.values() if one.exposed == "yes" and one.harm == "wrong"]
    return [one for one in worst_first(risks) if named(one.fault).confirmed and named(one.fault).silent]


def _verdict(case: Case, chosen: Finding | None, hard: bool, risks: list[Exposure]) -> Verdict:
    if chosen:
        return "fault"
    if hard:
        return "broken"
    if len(case.curve) < SHORT or too_noisy(case):
        return "too short"
    return "at risk" if risks else "healthy"


def _sure(case: Case, chosen: Finding | None, ranked: list[Finding], signs: dict[str, str]) -> Sure:
    if chosen is None:
        return "none"
    if any(one.sign == "error" for one in chosen.evidence) or "learning rate 0" in signs:
        return "certain"
    fault = named(chosen.fault)
    rivals = [one for one in ranked if one is not chosen and named(one.fault).table != fault.table]
    lead = chosen.points - max((one.points for one in rivals), default=0)
    known = _exposed(case, chosen.fault) == "yes" if fault.of_settings else True
    few = len(case.curve) < 3 and "silent" not in signs and "no step" not in signs
    return "likely" if known and chosen.points >= ENOUGH + 1 and lead >= 1 and not few else "possible"


def _question(case: Case, ranked: list[Finding]) -> str:
    """The one question that would decide between what is possible."""
    if framework := _framework(case):
        return f"Is DeepSpeed under {framework} here? Then give its configuration: --config ds_config.json"
    if not _configured(case):
        tables = {named(one.fault).table for one in ranked}
        what = " and is hpZ on (zero_hpz_partition_size above 1)" if "hpz" in tables else ""
        return f"Which ZeRO stage{what}? Give the DeepSpeed configuration: --config ds_config.json"
    if case.setup is not None and case.setup.release is None:
        return "Which DeepSpeed release? Give it: --release 0.13.4"
    for one in ranked:
        exposure = case.exposed.get(one.fault)
        if exposure is not None and exposure.needs:
            return f"Is it {one.fault}? To know, {exposure.needs}"
    return ""


def _headline(case: Case, verdict: Verdict, fault: str, sure: Sure, hard: list[str], question: str) -> str:
    if verdict == "fault":
        return f"{sure.capitalize()}: {named(fault).plain}. First: {named(fault).first}."
    if verdict == "broken":
        what = _shorten(re.sub(r" \(.*?\)|;.*", "", hard[0][0].upper() + hard[0][1:]), 54)
        return f"{what}. {'See the question below' if question else 'First: compare two runs'}."
    if verdict == "at risk":
        return _shorten(f"No sign in {_steps(case)}, but at risk: {named(fault).plain}", 79) + "."
    if verdict == "too short" and case.curve.of_empty_file:
        return "Too short to judge: it is empty. First: name the file that is written to."
    if verdict == "too short":
        what = " that jump about" if len(case.curve) >= SHORT else ""
        return f"Too short to judge: {_steps(case)}{what}. First: give more of the log."
    if _only_in_fp16(case):
        return f"No sign of a fault in {_steps(case)}, if they were trained in fp16."
    return f"No sign of a fault in {_steps(case)}."


def _steps(case: Case) -> str:
    """How much there is to judge, in words."""
    steps, evaluations = len(case.curve), len(case.curve.eval_loss)
    if not steps and evaluations:
        return f"{evaluations} evaluation{'' if evaluations == 1 else 's'} and no training loss"
    return f"{steps} step{'' if steps == 1 else 's'}"


def _shorten(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1].rstrip() + "…"


def _next(case: Case, verdict: Verdict, fault: str, question: str) -> tuple[str, ...]:
    """What to try, without what is done already: settings that are so exclude a fault, and options that are given are
    not asked for."""
    steps: list[str] = [question] if question and verdict == "broken" else []
    if fault:
        entry, exposure = named(fault), case.exposed.get(fault)
        steps += [exposure.way_out if exposure and exposure.way_out else entry.way_out, entry.prove]
        steps += [question] if question else []
    if (verdict == "broken" or fault == "plain instability") and case.hpz:
        steps.append("train a few steps without hpZ (zero_hpz_partition_size 1): is the curve the same?")
    if verdict == "too short" and case.curve.of_empty_file:
        steps.append("name the file that the training writes its log to")
        steps.append("has a job run for minutes and should have written here: py-spy dump on every rank")
    elif verdict == "too short":
        noisy = len(case.curve) >= SHORT
        more = (
            "give fifty steps or more" if noisy else "log every step (logging_steps 1) and give ten of them"
        )
        steps.append(more)
    if verdict == "healthy" and _only_in_fp16(case):
        steps.append(f"{OF_PRECISION} In bf16 a gradient norm that is not finite is a fault")
    elif verdict == "healthy":
        open_ones = sum(one.exposed == "unknown" and one.harm == "wrong" for one in case.exposed.values())
        may = f"{open_ones} faults may still apply: hpz doctor says what would decide"
        steps.append(may if open_ones else "nothing to do")
    return tuple(step for step in steps if step)


def _notes(case: Case, signs: dict[str, str], risks: list[Exposure], verdict: Verdict) -> list[str]:
    """What the reader must know to weigh the answer."""
    notes = list(case.curve.notes)
    notes += [shown] if (shown := compared(case)) else []
    if case.setup is not None:
        notes += [
            *map(str, case.setup.remarks),
            *([case.setup.release_note] if case.setup.release_note else []),
        ]
    if (framework := _framework(case)) and verdict in ("fault", "broken"):
        notes.append(f"the log reads as {framework}'s and names no DeepSpeed, so what needs that stands last")
    if not case.exposed:
        notes.append("judged by the curve alone; a fault of hpZ is possible only where hpZ is on")
    if verdict in ("healthy", "at risk", "too short"):
        notes += [seen for name, seen in signs.items() if name not in HARD]
        notes += [f"the setup is at risk of {one.fault}: {one.plain}" for one in risks]
    if "broken at once" not in signs and case.loss_scaling is not False and _skips(case):
        notes.append("steps with an infinite gradient norm are skipped in fp16 as a matter of course")
    return notes


def _only_in_fp16(case: Case) -> bool:
    """Whether steps are sound only if the training is in fp16, which nobody says."""
    return case.loss_scaling is None and _skips(case)


def _skips(case: Case) -> bool:
    return bool(overflows(case).any())
