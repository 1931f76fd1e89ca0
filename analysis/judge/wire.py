"""What the network carried and what that was worth: wire bytes against their prediction, speed-up against the bytes.

Only for runs whose steps read an interface's counter (`network_interface` of the cluster profile).
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from analysis.judge.audit import volume_bound
from analysis.judge.band import Floats
from analysis.judge.pairs import Matched, Pair, Recorded
from analysis.judge.throughput import step_seconds_ratio
from harness.study import Rule, bits_per_second

Record = dict[str, Any]


def wire_records(matched: Matched) -> list[Record]:
    """One entry a judgeable pair whose two runs were both metered; empty for all other studies."""
    records = (wire_record(pair, matched.study.rule) for pair in matched.pairs if not pair.reason)
    return [record for record in records if record]


def wire_sentence(records: list[Record]) -> str:
    """What the slowest link showed of hpZ's speed, from `wire` of summary.json; empty where no link has a rate."""
    timed = [record for record in records if record["link"] and record["speed_up"]]
    if not timed:
        return ""
    slowest = min((record["link"] for record in timed), key=bits_per_second)
    mine = [record for record in timed if record["link"] == slowest]
    speeds = sorted(record["speed_up"] for record in mine)
    kept = sorted(record["speed_up"] / record["byte_ratio"] for record in mine)
    return (
        f"Over links of {slowest} hpZ is {speeds[0]:.2f} to {speeds[-1]:.2f} times as fast as its baseline, "
        f"{kept[0]:.0%} to {kept[-1]:.0%} of what its bytes allow."
    )


def unfilled(records: list[Record]) -> dict[str, float]:
    """Links that the all-gather measured beside the runs did not fill by half → its bus bandwidth in Gbit/s.

    There processors decide, not the link, and a bound by bytes says little.
    """
    found = {
        record["link"]: record["bus_gbit_s"] for record in records if record["link"] and record["bus_gbit_s"]
    }
    return {link: bus for link, bus in found.items() if bus * 1e9 < 0.5 * bits_per_second(link)}


def wire_record(pair: Pair, rule: Rule) -> Record | None:
    """Bytes are means over steady steps of what rank 0's node sent; seconds are medians of the same steps."""
    run, baseline = pair.recorded, pair.recorded_baseline
    if run is None or baseline is None:
        return None
    ours, theirs = steady(run, "wire_bytes", rule), steady(baseline, "wire_bytes", rule)
    if not ours.size or not theirs.size:
        return None
    ratio = step_seconds_ratio(run.columns["step_seconds"], baseline.columns["step_seconds"], rule)
    training = pair.run.training
    return {
        "run_id": pair.run_id,
        "baseline_run_id": pair.baseline_run_id,
        "model": pair.run.model,
        "variant": pair.run.variant,
        "gradient_accumulation": training.gradient_accumulation,
        "link": pair.run.link,
        **_side("", run, rule, pair.run.link),
        **_side("baseline_", baseline, rule, pair.run.link),
        "byte_ratio": float(theirs.mean() / ours.mean()),
        "ring_byte_ratio": volume_bound(training.gradient_accumulation, training.activation_checkpointing),
        "speed_up": 1 / ratio.median if ratio else None,
        "speed_up_low": 1 / ratio.high if ratio and ratio.high else None,
        "speed_up_high": 1 / ratio.low if ratio and ratio.low else None,
        "bus_gbit_s": bus_bandwidth(run),
        "same_allocation": allocations(run) is not None and allocations(run) == allocations(baseline),
        "evidence": pair.run.evidence,
    }


def _side(prefix: str, recorded: Recorded, rule: Rule, link: str | None) -> Record:
    measured = float(steady(recorded, "wire_bytes", rule).mean())
    predicted = steady(recorded, "wire_bytes_predicted", rule)
    rate = bits_per_second(link) if link else None
    return {
        f"{prefix}wire_bytes": round(measured),
        f"{prefix}wire_bytes_predicted": round(float(predicted.mean())) if predicted.size else None,
        f"{prefix}step_seconds": float(np.median(steady(recorded, "step_seconds", rule))),
        # How long the link alone needs for the bytes; the rest of a step is processors and waiting.
        f"{prefix}link_seconds": measured * 8 / rate if rate else None,
    }


def steady(recorded: Recorded, column: str, rule: Rule) -> Floats:
    """A column after the warm-up, without missing values."""
    values: Floats = np.asarray(recorded.steady(column, rule.warmup_steps_dropped), dtype=float)
    return values[np.isfinite(values)].copy()


def bus_bandwidth(recorded: Recorded) -> float | None:
    """All-gather bus bandwidth over all ranks at the largest size of the baseline measured before the run, Gbit/s."""
    network = json.loads(recorded.row["status"] or "{}").get("network") or {}
    rows = [row for row in network.get("rows", []) if row["scope"] == "all ranks"]
    return float(max(rows, key=lambda row: row["bytes"])["bus_gbit_s"]) if rows else None


def allocations(recorded: Recorded) -> list[str] | None:
    """The allocations that made a run's steps; in older records the time of the network's measurement in its own."""
    status = json.loads(recorded.row["status"] or "{}")
    measured = (status.get("network") or {}).get("utc")
    return status.get("allocations") or ([measured] if measured else None)
