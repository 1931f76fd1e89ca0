"""Judges the claims of results/paper/claims.yaml by what a study measured; one row for each reading of each claim.

A reading is judged by the rule of its name below. Evidence weaker than the reading's `least_evidence` may bound it at
most, and simulated time alone never supports anything. A failure counts against hpZ only beside a control: ZeRO-3 under
the same order and settings, which has an unordered access of its own and must not have failed there, too.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from analysis.judge.claim_of_speed import gain, kept
from analysis.judge.claim_rules import (
    NOTHING,
    Found,
    Record,
    exceptions,
    excuse_of,
    excuses,
    failing,
    fails,
    select,
    simulated_runs,
)
from analysis.judge.evidence import LEVELS, SOUND, left_to_chance, weaker
from harness.system.errors import HarnessError
from harness.system.places import REPOSITORY

CLAIMS = REPOSITORY / "results" / "paper" / "claims.yaml"
FULL_SIZE = ("llama2-7b", "llama2-13b", "llama2-70b", "falcon-7b", "falcon-40b")


def judge_claims(summary: Record, file: Path = CLAIMS) -> list[dict[str, Any]]:
    """The `claims` of summary.json. Raises HarnessError where the claims file is missing or not as documented."""
    try:
        claims = yaml.safe_load(file.read_text())["claims"]
        return [_judged(claim, reading, summary) for claim in claims for reading in claim["readings"]]
    except OSError as error:
        raise HarnessError(
            f"{file}: cannot be read ({error.strerror}); restore it from the repository"
        ) from error
    except (yaml.YAMLError, KeyError, TypeError) as error:
        raise HarnessError(f"{file}: not a claims file ({error!r}); see the comment at its top") from error


def _judged(claim: Record, reading: Record, summary: Record) -> dict[str, Any]:
    rule = RULES.get(f"{claim['id']}/{reading['id']}")
    found = rule(summary) if rule else Found("not tested", "no rule judges this reading yet")
    level = weaker(*(pair["evidence"] for pair in found.pairs)) if found.pairs else None
    weak = level is not None and LEVELS.index(level) > LEVELS.index(reading["least_evidence"])
    if found.verdict in ("supported", "refuted") and weak:
        found = Found("bounded", f"{found.why}; but {level} cannot decide it", found.pairs, found.numbers)
    return {
        "id": claim["id"],
        "reading_id": reading["id"],
        "statement": claim["statement"],
        "source": claim["source"],
        "confidence": claim["confidence"],
        "reading": reading["says"],
        "verdict": found.verdict,
        "why": found.why,
        "evidence": level,
        "run_ids": sorted({pair["run_id"] for pair in found.pairs}),
        "numbers": dict(found.numbers),
    }


def _races_found(summary: Record) -> Found:
    # Neither an analysis nor a witness needs a verdict: both find the missing order in runs whose numbers were right.
    without = [pair for pair in summary["pairs"] if pair["variant"] in ("stock", "unordered")]
    analysed = [pair for pair in without if pair["races"] is not None]
    racing = [pair for pair in analysed if "hpz-secondary-copy" in pair["races"]["labels"]]
    seen = {run["run_id"]: run["findings"] for run in summary["witness"]}
    watched = [pair for pair in without if pair["run_id"] in seen]
    caught = [
        pair for pair in watched if any(SECONDARY in one["first"]["site"] for one in seen[pair["run_id"]])
    ]
    if not analysed and not watched:
        return NOTHING
    counts = [
        f"in {len(found)} of {len(of)} {how}"
        for of, found, how in (
            (analysed, racing, "analysed runs"),
            (watched, caught, "runs by torch's stream sanitizer"),
        )
        if of
    ]
    if not racing and not caught:
        return Found("refuted", f"such a race was found {' and '.join(counts)}", [*analysed, *watched])
    return Found("supported", f"the race was found {' and '.join(counts)}", [*racing, *caught])


SECONDARY = "(_partition_param_sec)"  # where DeepSpeed writes a secondary shard, in a witness's words
RACE_ALONE = ("unordered", "new+none+step")
STOCK = ("stock", "old+none+step")
OLD_COPY_ORDERED = ("sync-only", "old+stream-sync+step")


def _race_alone(summary: Record) -> Found:
    pairs = select(summary, *RACE_ALONE, aligned=True, in_order=False)
    control = select(summary, *RACE_ALONE, aligned=True, in_order=True)
    return fails(summary, pairs, control, "right copy, no order")


def _stock_by_race(summary: Record) -> Found:
    pairs = select(summary, *STOCK, aligned=True, in_order=False)
    control = select(summary, *STOCK, aligned=True, in_order=True)
    return fails(summary, pairs, control, "stock on aligned sizes")


def _stock_by_copy(summary: Record) -> Found:
    pairs = select(summary, *STOCK, *OLD_COPY_ORDERED, aligned=False, in_order=True)
    pairs += select(summary, *OLD_COPY_ORDERED, aligned=False, in_order=False)
    control = select(summary, *STOCK, *OLD_COPY_ORDERED, aligned=True, in_order=True)
    return fails(summary, pairs, control, "old copy, ordered, on unaligned sizes")


def _to(strikes: int, may: int) -> str:
    """Settings in which the race strikes whatever the clock's terms are, to those in which it strikes by some."""
    return f"{strikes} to {strikes + may}" if may else str(strikes)


def _stock_at_full_size(summary: Record) -> Found:
    pairs = [pair for pair in select(summary, "stock") if pair["model"] in FULL_SIZE]
    counts = (summary.get("simulated") or {}).get("windows")
    if pairs or not counts:
        return fails(summary, pairs, [], "stock at full size")
    codes = ", ".join(
        f"{_to(strikes, may)} of {of} with {code}" for code, (strikes, may, of) in counts["by_code"].items()
    )
    many = _to(counts["strikes"], counts["may_strike"])
    why = f"in simulated time, gathers overtake their copies in {many} of {counts['settings']} settings "
    why += f"at full size, by what the clock's terms may be ({codes}), "
    why += f"and in {counts['small_strikes']} of {counts['small_settings']} of toy models; "
    why += "losses were not computed, and when the copy ends was never held against a measurement"
    numbers = {
        name: counts[name]
        for name in ("settings", "strikes", "may_strike", "small_settings", "small_strikes")
    }
    return Found("bounded", why, simulated_runs(counts["run_ids"]), numbers)


def _all_within(variant: str, allowed: tuple[str, ...]) -> Callable[[Record], Found]:
    """A claim about every pair: refuted by one exception beside a sound control; bounded where all ran in order."""

    def rule(summary: Record) -> Found:
        pairs = select(summary, variant)
        if not pairs:
            return NOTHING
        words = " or ".join(allowed)
        if exception := exceptions(summary, pairs, allowed, f"are not {words}"):
            return exception
        numbers = {"pairs": len(pairs), "outside": 0}
        if not select(summary, variant, in_order=False):
            return Found(
                "bounded", f"all {len(pairs)} pairs are {words}, but all ran in order", pairs, numbers
            )
        return Found("supported", f"all {len(pairs)} pairs are {words}", pairs, numbers)

    return rule


def _synchronise(variant: str) -> Callable[[Record], Found]:
    def rule(summary: Record) -> Found:
        every = select(summary, variant, in_order=False)
        pairs = [pair for pair in every if not left_to_chance(pair) or pair["verdict"] not in SOUND]
        if not pairs:
            return NOTHING
        if exception := exceptions(summary, pairs, SOUND, "fail with it"):
            return exception
        mean = next(
            one["extra_host_syncs_per_step"] for one in summary["variants"] if one["variant"] == variant
        )
        numbers = {"pairs": len(pairs), "outside": 0, "extra_host_syncs_per_step": mean}
        cost = "" if mean is None else f", at {mean:+.3g} host waits a step"
        return Found("supported", f"it suffices in all {len(pairs)} pairs{cost}", pairs, numbers)

    return rule


def _nan(summary: Record) -> Found:
    """Losses that became NaN where no NaN was planted: fresh memory of the virtual device holds what the study asks."""
    failed = failing(select(summary, "stock", "unordered"))
    if not failed:
        return NOTHING
    nans = [
        pair for pair in failed if pair["verdict"] == "diverged" and pair["reason"].startswith("loss is NaN")
    ]
    own = [pair for pair in nans if pair["poison"] != "nan" and not excuse_of(pair, summary)]
    numbers = {"failed": len(failed), "nan": len(nans), "nan_without_planted_nan": len(own)}
    if own:
        why = f"in {len(own)} of {len(failed)} failed pairs the loss turned NaN, and no memory was filled with NaN"
        return Found("supported", why, own, numbers)
    if not nans:
        why = f"in none of {len(failed)} failed pairs the loss turned NaN; they drifted, stuck or overflowed"
        return Found("bounded", why, failed, numbers)
    planted = sum(pair["poison"] == "nan" for pair in nans)
    doubts = [f"in {planted} fresh memory was filled with NaN (poison: nan), so that says nothing"]
    doubts = doubts if planted else []
    doubts += [words] if (words := excuses([p for p in nans if p["poison"] != "nan"], summary)) else []
    why = f"in {len(nans)} of {len(failed)} failed pairs the loss turned NaN, but {'; '.join(doubts)}"
    return Found("bounded", why, nans, numbers)


RULES: dict[str, Callable[[Record], Found]] = {
    "race-exists/unordered-access": _races_found,
    "race-exists/race-alone": _race_alone,
    "stock-diverges/by-the-race": _stock_by_race,
    "stock-diverges/by-the-copy": _stock_by_copy,
    "stock-diverges/at-full-size": _stock_at_full_size,
    "fix-converges/bit-exact": _all_within("fixed", ("exact",)),
    "fix-converges/same-quality": _all_within("fixed", SOUND),
    "speed-98/R1": gain,
    "speed-98/R2": kept,
    "fix-is-a-synchronise/device-wide": _synchronise("device-sync"),
    "fix-is-a-synchronise/stream-wide": _synchronise("fixed"),
    "divergence-is-nan/nan-losses": _nan,
}
