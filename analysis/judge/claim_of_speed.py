"""Both readings of the paper's "98 %": by measured times, by what the bytes allow, and by simulated time."""

from __future__ import annotations

from typing import Any

from analysis.judge.claim_rules import NOTHING, Found, Record, Verdict, select, simulated_runs

GAIN = 1.98  # reading R1: 98 % more throughput

KEPT = 0.98  # reading R2: 98 % of the throughput kept


def gain(summary: Record) -> Found:
    """R1 by measured times; below them, by what the bytes allow; below those, by simulated time."""
    timed = [
        pair
        for pair in select(summary, "fixed")
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


def kept(summary: Record) -> Found:
    """R2: step time of stock (or unordered) over fixed, pair by pair of the same baseline; or by simulated time.

    The interval of the quotient is that of two intervals divided, so it is wide rather than narrow.
    """
    fixed = {_cell(pair): pair for pair in select(summary, "fixed") if pair["step_seconds_ratio"]}
    both = [
        (pair, fixed[_cell(pair)])
        for pair in select(summary, "stock", "unordered")
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
    """The interval of the pair's step time over its baseline's; without ends where there are too few blocks for one."""
    ratio = pair["step_seconds_ratio"]
    return (None, None) if ratio["too_narrow"] else (ratio["low"], ratio["high"])


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
    return (*(pair[name] for name in names), str(pair["shape"]), str(pair["axes"]))


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
    return Found("bounded", why, simulated_runs(row["run_ids"]), numbers)


def _cell(pair: Record) -> tuple[Any, ...]:
    return (pair["baseline_run_id"], pair["policy"], str(pair["shape"]))
