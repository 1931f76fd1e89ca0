"""The first screen: which variant trains as its baseline does, and what that costs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from analysis.judge.clock import clock_sentence
from analysis.judge.evidence import SOUND, moved, ran, zero3_beside
from analysis.judge.race_matrix import race_sentence
from analysis.judge.wire import wire_sentence

Record = Mapping[str, Any]

FIX_TIMED = ("multi-node", "one-gpu")  # levels at which step seconds say something about the fix

WHO = {  # in the order of the first screen
    "stock": "hpZ as in DeepSpeed 0.13.4 and before",
    "unordered": "hpZ of DeepSpeed 0.13.5 or later without its synchronise",
    "fixed": "hpZ as in DeepSpeed 0.13.5 and later",
    "event": "hpZ with an event in place of the synchronise",
    "sync-only": "old hpZ with the synchronise alone",
    "device-sync": "hpZ with a device-wide synchronise",
    "event+step": "as event, and the gather waits for the optimizer's write, too",
    "event+step+load": "as event+step, and a pass waits for what was written before it, too",
    "zero3": "ZeRO-3 without hpZ, under other orders than its baseline",
    "zero3+step": "ZeRO-3 whose gather waits for the optimizer's write",
}


@dataclass(frozen=True)
class Answer:
    """One row of the first screen."""

    variant: str
    who: str
    sign: str  # safe, unsafe, untested
    safety: str
    cost: str
    evidence: str


def answers(summary: Record) -> list[Answer]:
    """Each variant, named ones first: does it train as its baseline does, and what does that cost?"""
    order = sorted(summary["variants"], key=lambda one: [*WHO, one["variant"]].index(one["variant"]))
    return [_answer(one, summary) for one in order]


def _answer(one: Record, summary: Record) -> Answer:
    sign = {True: "safe", False: "unsafe", None: "untested"}[one["safe"]]
    pairs = [pair for pair in summary["pairs"] if pair["variant"] == one["variant"]]
    who = WHO.get(one["variant"], "another point of the ablation")
    return Answer(
        one["variant"],
        who,
        sign,
        _safety(one, pairs, summary["pairs"]),
        _cost(one, pairs),
        ", ".join(one["evidence"]),
    )


def _safety(one: Record, pairs: list[Record], every: list[Record]) -> str:
    judged = one["pairs"] - one["not_judged"]
    missing = f"; {one['not_judged']} more not run" if one["not_judged"] else ""
    if not judged:
        return "Nothing was run."
    if one["safe"] is False:
        failed = [pair for pair in pairs if pair["verdict"] and pair["verdict"] not in SOUND]
        words = count_words({v: n for v, n in one["verdicts"].items() if v not in SOUND})
        first = min(pair["first_bad_step"] for pair in failed)
        alike = sum(zero3_beside(pair, every) in ("drifted", "diverged") for pair in failed)
        shared = f", where ZeRO-3 itself fails in {'all' if alike == len(failed) else alike}" if alike else ""
        shared = "" if one["variant"].startswith("zero3") else shared
        return f"{words} in {len(failed)} of {judged} pairs, the earliest at step {first}{shared}{missing}."
    words = count_words(one["verdicts"])
    if drifts := [pair["smallest_drift"] for pair in pairs if pair.get("smallest_drift")]:
        missing = f"; a lasting drift of {max(drifts):.2g} nats would have shown{missing}"
    if changed := sum(map(moved, pairs)):
        return f"{words}: an order changed values in {changed} of {judged} pairs, inside the band of seeds{missing}."
    if one["safe"] is None:
        return f"{words}, but only where nothing could run out of order{missing}."
    return f"{words}: as its baseline in all {judged} pairs{missing}."


def count_words(verdicts: Mapping[str, int]) -> str:
    words = [f"{verdict} ({count})" for verdict, count in verdicts.items() if count]
    return (" and ".join(words) or "none").capitalize()


def _cost(one: Record, pairs: list[Record]) -> str:
    extra = one["extra_host_syncs_per_step"]
    waits = "" if extra is None else f"{_signed(extra)} host waits per step"
    timed = [pair for pair in pairs if pair["evidence"] in FIX_TIMED and pair["step_seconds_ratio"]]
    if timed:
        ratios = sorted(pair["step_seconds_ratio"]["median"] for pair in timed)
        low, high = ratios[0], ratios[-1]
        times = f"{low:.2f}" if f"{low:.2f}" == f"{high:.2f}" else f"{low:.2f} to {high:.2f}"
        return f"{times} × the baseline's step time; {waits}".rstrip("; ")
    return waits or "not counted"


def _signed(value: float) -> str:
    return "no extra" if abs(value) < 0.005 else f"{value:+.3g}".replace("-", "−")


def headline(summary: Record) -> str:
    """One sentence that answers whether a configuration is safe."""
    if not ran(summary):
        parts = [race_sentence(summary["races"])] if summary["races"] else []
        parts += [clock_sentence(summary["simulated"])] if summary["simulated"] else []
        return " ".join(["No losses were compared." if summary["races"] else "Nothing was run.", *parts])
    found = answers(summary)
    parts = []
    for sign, words in (("unsafe", "Not safe"), ("safe", "Safe in this study"), ("untested", "Not settled")):
        names = [answer.variant for answer in found if answer.sign == sign]
        known = [name for name in names if name in WHO]
        if others := len(names) - len(known):
            known.append(f"{others} more point{'s' if others > 1 else ''} of the ablation")
        if known:
            parts.append(f"{words}: {_and(known)}.")
    speed = wire_sentence(summary["wire"])
    return " ".join([*parts, speed] if speed else parts) or "Nothing was judged yet."


def _and(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
