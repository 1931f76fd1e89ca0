"""Judges the claims of results/paper/claims.yaml by what a study measured; one row for each reading of each claim.

A reading is judged by the rule of its name below. Evidence weaker than the reading's `least_evidence` may bound it at
most, and simulated time alone never supports anything. A failure counts against hpZ only beside a control: ZeRO-3 under
the same order and settings, which has an unordered access of its own and must not have failed there, too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from analysis.judge.summary import LEVELS, SOUND, left_to_chance, weaker, zero3_beside
from harness.system.errors import HarnessError
from harness.system.places import REPOSITORY

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


def _excuse(pair: Record, summary: Record, allowed: tuple[str, ...] = SOUND) -> str | None:
    """Why a pair outside `allowed` proves nothing of hpZ; None where it does."""
    control = zero3_beside(pair, summary["pairs"])
    if control is None:
        return "ZeRO-3 was not run under the same order"
    if control not in allowed:
        return f"ZeRO-3 itself is not {' or '.join(allowed)} under the same order"
    if pair["verdict"] == "drifted" and not pair["band"] and "equivalent" in allowed:
        return "there is no tolerance band, for want of baseline seeds"
    return None


def _excuses(pairs: list[Record], summary: Record, allowed: tuple[str, ...] = SOUND) -> str:
    """The excuses of all pairs, each with the number of pairs."""
    counts = Counter(excuse for pair in pairs if (excuse := _excuse(pair, summary, allowed)))
    return "; ".join(f"in {count} {excuse}" for excuse, count in counts.items())


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


def _fails(summary: Record, pairs: list[Record], in_order: list[Record], what: str) -> Found:
    """An existence claim: supported by a failure beside sound controls; bounded where nothing failed, or all did."""
    if not pairs:
        return NOTHING
    failed = _failed(pairs)
    own = [pair for pair in failed if not _excuse(pair, summary)]
    diverged = sum(pair["verdict"] == "diverged" for pair in own)
    numbers = {
        "pairs": len(pairs),
        "failed": len(failed),
        "failed_beside_control": len(own),
        "diverged": diverged,
        "failed_in_order": len(_failed(in_order)),
    }
    if not failed:
        return Found("bounded", f"{what}: none of {len(pairs)} pairs fails here", pairs, numbers)
    if _failed(in_order):
        why = f"{what}: {len(failed)} of {len(pairs)} pairs fail, but so does the control in order"
        return Found("bounded", why, [*failed, *_failed(in_order)], numbers)
    doubt = _excuses(failed, summary)
    if not own:
        return Found(
            "bounded", f"{what}: {len(failed)} of {len(pairs)} pairs fail, but {doubt}", failed, numbers
        )
    first = min(pair["first_bad_step"] for pair in own)
    why = f"{what}: {len(own)} of {len(pairs)} pairs fail where ZeRO-3 does not ({diverged} diverged), "
    why += f"first at step {first}"
    why += f"; none of {len(in_order)} controls in order does" if in_order else ""
    why += f"; {len(failed) - len(own)} more fail, but {doubt}" if doubt else ""
    return Found("supported", why, own, numbers)


RACE_ALONE = ("unordered", "new+none+step")
STOCK = ("stock", "old+none+step")
OLD_COPY_ORDERED = ("sync-only", "old+stream-sync+step")


def _race_alone(summary: Record) -> Found:
    pairs = _select(summary, *RACE_ALONE, aligned=True, in_order=False)
    control = _select(summary, *RACE_ALONE, aligned=True, in_order=True)
    return _fails(summary, pairs, control, "right copy, no order")


def _stock_by_race(summary: Record) -> Found:
    pairs = _select(summary, *STOCK, aligned=True, in_order=False)
    control = _select(summary, *STOCK, aligned=True, in_order=True)
    return _fails(summary, pairs, control, "stock on aligned sizes")


def _stock_by_copy(summary: Record) -> Found:
    pairs = _select(summary, *STOCK, *OLD_COPY_ORDERED, aligned=False, in_order=True)
    pairs += _select(summary, *OLD_COPY_ORDERED, aligned=False, in_order=False)
    control = _select(summary, *STOCK, *OLD_COPY_ORDERED, aligned=True, in_order=True)
    return _fails(summary, pairs, control, "old copy, ordered, on unaligned sizes")


def _stock_at_full_size(summary: Record) -> Found:
    pairs = [pair for pair in _select(summary, "stock") if pair["model"] in FULL_SIZE]
    counts = (summary.get("simulated") or {}).get("windows")
    if pairs or not counts:
        return _fails(summary, pairs, [], "stock at full size")
    codes = ", ".join(f"{strikes} of {of} with {code}" for code, (strikes, of) in counts["by_code"].items())
    why = f"in simulated time, gathers overtake their copies in {counts['strikes']} of {counts['settings']} settings "
    why += f"at full size ({codes}) and in {counts['small_strikes']} of {counts['small_settings']} of toy models; "
    why += "losses were not computed, and when the copy ends was never held against a measurement"
    numbers = {name: counts[name] for name in ("settings", "strikes", "small_settings", "small_strikes")}
    return Found("bounded", why, _runs(counts["run_ids"]), numbers)


def _all_within(variant: str, allowed: tuple[str, ...]) -> Callable[[Record], Found]:
    """A claim about every pair: refuted by one exception beside a sound control; bounded where all ran in order."""

    def rule(summary: Record) -> Found:
        pairs = _select(summary, variant)
        if not pairs:
            return NOTHING
        words = " or ".join(allowed)
        if exception := _exceptions(summary, pairs, allowed, f"are not {words}"):
            return exception
        numbers = {"pairs": len(pairs), "outside": 0}
        if not _select(summary, variant, in_order=False):
            return Found(
                "bounded", f"all {len(pairs)} pairs are {words}, but all ran in order", pairs, numbers
            )
        return Found("supported", f"all {len(pairs)} pairs are {words}", pairs, numbers)

    return rule


def _exceptions(summary: Record, pairs: list[Record], allowed: tuple[str, ...], what: str) -> Found | None:
    """What pairs outside `allowed` say against a claim about all pairs; None where there are none."""
    outside = [pair for pair in pairs if pair["verdict"] not in allowed]
    own = [pair for pair in outside if not _excuse(pair, summary, allowed)]
    numbers = {"pairs": len(pairs), "outside": len(outside), "outside_beside_control": len(own)}
    if own:
        why = f"{len(own)} of {len(pairs)} pairs {what} where ZeRO-3 does not fail"
        return Found("refuted", why, own, numbers)
    if outside:
        why = f"{len(outside)} of {len(pairs)} pairs {what}, but {_excuses(outside, summary, allowed)}"
        return Found("bounded", why, outside, numbers)
    return None


def _gain(summary: Record) -> Found:
    """R1 by measured times; below them, by what the bytes allow; below those, by simulated time."""
    timed = [
        pair
        for pair in _select(summary, "fixed")
        if pair["evidence"] == "multi-node" and pair["step_seconds_ratio"]
    ]
    if timed:
        gains = [(pair, *_inverse(_ends(pair))) for pair in timed]
        return _by_interval(gains, GAIN, "speed over ZeRO-3's")
    # What the interface counted, where it did: over gloo more travels than a ring of NCCL would send.
    wire = [(record["byte_ratio"], [record["run_id"]]) for record in summary["wire"]]
    rows = wire or [(row["recorded_ratio"], row["run_ids"]) for row in summary["audit"]]
    if not rows:
        return _simulated(summary, "R1") or NOTHING
    most, possible = max(ratio for ratio, _ in rows), sum(ratio >= GAIN for ratio, _ in rows)
    ids = {run_id for _, run_ids in rows for run_id in run_ids}
    pairs = [pair for pair in summary["pairs"] if pair["run_id"] in ids]
    side = f"not excluded in {possible} of {len(rows)} configurations" if possible else "out of reach"
    which = "bytes metered on the link" if wire else "recorded bytes to other nodes"
    why = f"{which} allow at most {most:.2f} × over ZeRO-3: 1.98 × is {side} by volume"
    numbers: dict[str, float | None] = {"largest_ratio_of_bytes": most}
    if speeds := [record["speed_up"] for record in summary["wire"] if record["speed_up"]]:
        why += f"; measured: {max(speeds):.2f} × at most"
        numbers["largest_speed_up"] = max(speeds)
    return Found("bounded", why, pairs, numbers)


def _kept(summary: Record) -> Found:
    """R2: step time of stock (or unordered) over fixed, pair by pair of the same baseline; or by simulated time.

    The interval of the quotient is that of two intervals divided, so it is wide rather than narrow.
    """
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
    kept = []
    for ours, theirs in both:
        (low, high), (least, most) = _ends(ours), _inverse(_ends(theirs))
        kept += [(one, _times(low, least), _times(high, most)) for one in (ours, theirs)]
    return _by_interval(kept, KEPT, "share of the speed that the fix keeps")


Ends = tuple[float | None, float | None]


def _ends(pair: Record) -> Ends:
    """The interval of the pair's step time over its baseline's; an end is None where too few blocks gave none."""
    return pair["step_seconds_ratio"]["low"], pair["step_seconds_ratio"]["high"]


def _inverse(ends: Ends) -> Ends:
    low, high = ends
    return (None if high is None else 1 / high), (None if low is None else 1 / low)


def _times(left: float | None, right: float | None) -> float | None:
    return None if left is None or right is None else left * right


def _by_interval(found: list[tuple[Record, float | None, float | None]], asked: float, what: str) -> Found:
    """Whether a quantity reaches `asked`, decided for each configuration by the interval over its seeds.

    Supported or refuted where all configurations say so; bounded where they differ or an interval straddles.
    """
    spans: dict[tuple[Any, ...], list[Ends]] = {}
    for pair, low, high in found:
        spans.setdefault(_configuration(pair), []).append((low, high))
    reached = sum(all(low is not None and low >= asked for low, _ in ends) for ends in spans.values())
    missed = sum(all(high is not None and high < asked for _, high in ends) for ends in spans.values())
    verdict: Verdict = (
        "supported" if reached == len(spans) else "refuted" if missed == len(spans) else "bounded"
    )
    lows, highs = (
        [low for _, low, _ in found if low is not None],
        [high for *_, high in found if high is not None],
    )
    why = f"{what}: {asked:.2f} is reached in {reached} of {len(spans)} configurations and missed in {missed}"
    if undecided := len(spans) - reached - missed:
        why += f"; in {undecided} the interval leaves it open"
    numbers = {
        "configurations": len(spans),
        "reached": reached,
        "missed": missed,
        "lowest": min(lows, default=None),
        "highest": max(highs, default=None),
    }
    return Found(verdict, why, [pair for pair, *_ in found], numbers)


def _configuration(pair: Record) -> tuple[Any, ...]:
    names = ("model", "release", "schedule", "gradient_accumulation", "throughput_timer", "link")
    return (*(pair[name] for name in names), str(pair["shape"]))


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
        if exception := _exceptions(summary, pairs, SOUND, "fail with it"):
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
    failed = _failed(_select(summary, "stock", "unordered"))
    if not failed:
        return NOTHING
    nans = [
        pair for pair in failed if pair["verdict"] == "diverged" and pair["reason"].startswith("loss is NaN")
    ]
    own = [pair for pair in nans if pair["poison"] != "nan" and not _excuse(pair, summary)]
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
    doubts += [words] if (words := _excuses([p for p in nans if p["poison"] != "nan"], summary)) else []
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
    "speed-98/R1": _gain,
    "speed-98/R2": _kept,
    "fix-is-a-synchronise/device-wide": _synchronise("device-sync"),
    "fix-is-a-synchronise/stream-wide": _synchronise("fixed"),
    "divergence-is-nan/nan-losses": _nan,
}
