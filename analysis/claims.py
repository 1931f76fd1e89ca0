"""Judges the claims of results/paper/claims.yaml by what a study measured; one row for each reading of each claim.

A reading is judged by the rule of its name below. Evidence weaker than the reading's `least_evidence` may bound it at
most, and simulated time alone never supports anything.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from analysis.summary import LEVELS, SOUND, left_to_chance, weaker
from harness.errors import HarnessError
from harness.study import REPOSITORY

Record = Mapping[str, Any]
Verdict = Literal["supported", "refuted", "bounded", "not tested"]
CLAIMS = REPOSITORY / "results" / "paper" / "claims.yaml"
IN_ORDER = ("eager", "native")
FULL_SIZE = ("llama2-7b", "llama2-13b", "llama2-70b", "falcon-7b", "falcon-40b")
GAIN = 1.98  # reading R1: 98 % more throughput
KEPT = 0.98  # reading R2: 98 % of the throughput kept


@dataclass(frozen=True)
class Found:
    """What a rule concludes from `pairs`; `numbers` are those that decided it."""

    verdict: Verdict
    why: str
    pairs: list[Record] = field(default_factory=list)
    numbers: Mapping[str, float | None] = field(default_factory=dict)


NOTHING = Found("not tested", "this study holds no run that bears on it")


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


def _select(
    summary: Record, *variants: str, aligned: bool | None = None, in_order: bool | None = None
) -> list[Record]:
    return [
        pair
        for pair in summary["pairs"]
        if pair["verdict"]
        and pair["variant"] in variants
        and aligned in (None, pair["model_aligned"])
        and in_order in (None, pair["policy"] in IN_ORDER and pair["evidence"] in ("virtual-device", "cpu"))
    ]


def _failed(pairs: list[Record]) -> list[Record]:
    return [pair for pair in pairs if pair["verdict"] not in SOUND]


def _races_found(summary: Record) -> Found:
    # An analysis needs no verdict: it finds the missing order in runs whose numbers were right, or never compared.
    analysed = [
        p for p in summary["pairs"] if p["races"] is not None and p["variant"] in ("stock", "unordered")
    ]
    racing = [pair for pair in analysed if "hpz-secondary-copy" in pair["races"]["labels"]]
    if not analysed:
        return NOTHING
    if not racing:
        return Found("refuted", f"no such race in {len(analysed)} analysed runs", analysed)
    return Found("supported", f"the race was found in {len(racing)} of {len(analysed)} analysed runs", racing)


def _fails(pairs: list[Record], control: list[Record], what: str, word: str = "fails") -> Found:
    """An existence claim: supported by failures beside a sound control; bounded where nothing failed."""
    if not pairs:
        return NOTHING
    failed = _failed(pairs)
    diverged = sum(pair["verdict"] == "diverged" for pair in failed)
    numbers = {
        "pairs": len(pairs),
        "failed": len(failed),
        "diverged": diverged,
        "control_failed": len(_failed(control)),
    }
    if not failed:
        return Found("bounded", f"{what}: none of {len(pairs)} pairs {word} here", pairs, numbers)
    if _failed(control):
        return Found(
            "bounded", f"{what}: {word}, but so does the control", [*failed, *_failed(control)], numbers
        )
    steps = [pair["first_bad_step"] for pair in failed]
    why = f"{what}: {len(failed)} of {len(pairs)} pairs {word} ({diverged} diverged), first at step {min(steps)}"
    why += f"; none of {len(control)} controls does" if control else ""
    return Found("supported", why, failed, numbers)


def _race_alone(summary: Record) -> Found:
    pairs = _select(summary, "unordered", aligned=True, in_order=False)
    return _fails(
        pairs, _select(summary, "unordered", aligned=True, in_order=True), "right copy, no order", "fail"
    )


def _stock_by_race(summary: Record) -> Found:
    pairs = _select(summary, "stock", aligned=True, in_order=False)
    return _fails(
        pairs, _select(summary, "stock", aligned=True, in_order=True), "stock on aligned sizes", "fail"
    )


def _stock_by_copy(summary: Record) -> Found:
    pairs = _select(summary, "stock", "sync-only", aligned=False, in_order=True)
    pairs += _select(summary, "sync-only", aligned=False, in_order=False)
    control = _select(summary, "stock", "sync-only", aligned=True, in_order=True)
    return _fails(pairs, control, "old copy on unaligned sizes, in order", "fail")


def _stock_at_full_size(summary: Record) -> Found:
    pairs = [pair for pair in _select(summary, "stock") if pair["model"] in FULL_SIZE]
    counts = (summary.get("simulated") or {}).get("windows")
    if pairs or not counts:
        return _fails(pairs, [], "stock at full size", "fail")
    codes = ", ".join(f"{strikes} of {of} with {code}" for code, (strikes, of) in counts["by_code"].items())
    why = f"in simulated time, gathers overtake their copies in {counts['strikes']} of {counts['settings']} settings "
    why += f"at full size ({codes}) and in {counts['small_strikes']} of {counts['small_settings']} of toy models; "
    why += "losses were not computed, and when the copy ends was never held against a measurement"
    numbers = {name: counts[name] for name in ("settings", "strikes", "small_settings", "small_strikes")}
    return Found("bounded", why, _runs(counts["run_ids"]), numbers)


def _all_within(variant: str, allowed: tuple[str, ...]) -> Callable[[Record], Found]:
    """A claim about every pair: refuted by one exception; bounded where nothing could run out of order."""

    def rule(summary: Record) -> Found:
        pairs = _select(summary, variant)
        if not pairs:
            return NOTHING
        outside = [pair for pair in pairs if pair["verdict"] not in allowed]
        numbers = {"pairs": len(pairs), "outside": len(outside)}
        words = " or ".join(allowed)
        if outside:
            return Found("refuted", f"{len(outside)} of {len(pairs)} pairs are not {words}", outside, numbers)
        if not _select(summary, variant, in_order=False):
            return Found(
                "bounded", f"all {len(pairs)} pairs are {words}, but all ran in order", pairs, numbers
            )
        return Found("supported", f"all {len(pairs)} pairs are {words}", pairs, numbers)

    return rule


def _gain(summary: Record) -> Found:
    """R1 by measured times; below them, by what the recorded bytes allow; below those, by simulated time."""
    timed = [
        pair
        for pair in _select(summary, "fixed")
        if pair["evidence"] == "multi-node" and pair["step_seconds_ratio"]
    ]
    if timed:
        best = max(1 / pair["step_seconds_ratio"]["median"] for pair in timed)
        verdict: Verdict = "supported" if best >= GAIN else "refuted"
        return Found(verdict, f"the largest gain over ZeRO-3 is {best:.2f} ×", timed, {"largest_gain": best})
    rows = list(summary["audit"])
    if not rows:
        return _simulated(summary, "R1") or NOTHING
    most = max(row["recorded_ratio"] for row in rows)
    ids = {run_id for row in rows for run_id in row["run_ids"]}
    pairs = [pair for pair in summary["pairs"] if pair["run_id"] in ids]
    side = "out of reach" if most < GAIN else "not excluded"
    why = f"recorded bytes to other nodes allow at most {most:.2f} × over ZeRO-3: 1.98 × is {side} by volume"
    return Found("bounded", why, pairs, {"largest_ratio_of_bytes": most})


def _kept(summary: Record) -> Found:
    """R2: step time of stock (or unordered) over fixed, pair by pair of the same baseline; or by simulated time."""
    fixed = {_cell(pair): pair for pair in _select(summary, "fixed") if pair["step_seconds_ratio"]}
    both = [
        (pair, fixed[_cell(pair)])
        for pair in _select(summary, "stock", "unordered")
        if pair["step_seconds_ratio"]
        and _cell(pair) in fixed
        and pair["evidence"] in ("multi-node", "one-gpu")
    ]
    if not both and (bound := _simulated(summary, "R2")):
        return bound
    if not both:
        extra = [v["extra_host_syncs_per_step"] for v in summary["variants"] if v["variant"] == "fixed"]
        waits = extra[0] if extra else None
        why = NOTHING.why + (
            "" if waits is None else f"; the fix waits {waits:+.3g} times a step on the host"
        )
        return Found("not tested", why, [], {"extra_host_syncs_per_step": waits})
    kept = [
        ours["step_seconds_ratio"]["median"] / theirs["step_seconds_ratio"]["median"] for ours, theirs in both
    ]
    worst = min(kept)
    verdict: Verdict = "supported" if worst >= KEPT else "refuted"
    pairs = [pair for two in both for pair in two]
    return Found(
        verdict, f"the fix keeps at least {worst:.1%} of the speed", pairs, {"smallest_share_kept": worst}
    )


def _simulated(summary: Record, reading: str) -> Found | None:
    """A reading of "98 %" by simulated time: a bound at most, whatever it says."""
    simulated = summary.get("simulated") or {"readings": []}
    row = next((row for row in simulated["readings"] if row["reading"] == reading), None)
    if row is None:
        return None
    low, high = row["low"], row["high"]
    if reading == "R1":
        why = f"the fix is {low:.2f} to {high:.2f} × as fast as ZeRO-3 (most: {row['most_at']}); bytes allow at most "
        side = "out of reach" if row["bytes_allow"] < GAIN else "not excluded by them"
        why += f"{row['bytes_allow']:.2f} ×, so 1.98 × is {side}"
    else:
        why = (
            f"the fix keeps {low:.1%} to {high:.1%} of the speed of unordered hpZ (least: {row['least_at']})"
        )
    why += f", in {row['settings']} settings in simulated time ({simulated['validation']['caveat']})"
    numbers = {"lowest": low, "highest": high, "largest_ratio_of_bytes": row["bytes_allow"]}
    return Found("bounded", why, _runs(row["run_ids"]), numbers)


def _runs(run_ids: list[str]) -> list[Record]:
    return [{"run_id": run_id, "evidence": "simulated-time"} for run_id in run_ids]


def _cell(pair: Record) -> tuple[Any, ...]:
    return (pair["baseline_run_id"], pair["policy"], str(pair["shape"]))


def _synchronise(variant: str) -> Callable[[Record], Found]:
    def rule(summary: Record) -> Found:
        every = _select(summary, variant, in_order=False)
        pairs = [pair for pair in every if not left_to_chance(pair) or pair["verdict"] not in SOUND]
        if not pairs:
            return NOTHING
        mean = next(
            one["extra_host_syncs_per_step"] for one in summary["variants"] if one["variant"] == variant
        )
        numbers = {"pairs": len(pairs), "failed": len(_failed(pairs)), "extra_host_syncs_per_step": mean}
        if _failed(pairs):
            return Found(
                "refuted", f"{len(_failed(pairs))} of {len(pairs)} pairs fail with it", pairs, numbers
            )
        cost = "" if mean is None else f", at {mean:+.3g} host waits a step"
        return Found("supported", f"it suffices in all {len(pairs)} pairs{cost}", pairs, numbers)

    return rule


def _nan(summary: Record) -> Found:
    failed = _failed(_select(summary, "stock", "unordered"))
    if not failed:
        return NOTHING
    nans = [pair for pair in failed if pair["verdict"] == "diverged" and "NaN" in pair["reason"]]
    numbers = {"failed": len(failed), "nan": len(nans)}
    if not nans:
        return Found(
            "bounded",
            f"none of {len(failed)} failed pairs turned NaN; they drifted or stuck",
            failed,
            numbers,
        )
    return Found("supported", f"{len(nans)} of {len(failed)} failed pairs turned NaN", nans, numbers)


RULES: dict[str, Callable[[Record], Found]] = {
    "race-exists/unordered-access": _races_found,
    "race-exists/race-alone": _race_alone,
    "stock-diverges/by-the-race": _stock_by_race,
    "stock-diverges/by-the-copy": _stock_by_copy,
    "stock-diverges/at-full-size": _stock_at_full_size,
    "fix-converges/bit-exact": _all_within("fixed", ("exact",)),
    "fix-converges/same-quality": _all_within("fixed", SOUND),
    "speed-98/R1": _gain,
    "speed-98/R2": _kept,
    "fix-is-a-synchronise/device-wide": _synchronise("device-sync"),
    "fix-is-a-synchronise/stream-wide": _synchronise("fixed"),
    "divergence-is-nan/nan-losses": _nan,
}
