"""Claims are judged by stated rules, at the level of the evidence, and never beyond it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from analysis.judge.claims import CLAIMS, RULES, judge_claims
from harness.system.errors import HarnessError

SHAPE = {"nodes": 2, "ranks_per_node": 2, "hpz": 2}


def pair(variant: str, verdict: str, policy: str = "side-first", **changes: Any) -> dict[str, Any]:
    name = f"{variant}_{policy}_{changes.get('model_aligned', True)}_{changes.get('evidence', '')}"
    return {
        "run_id": name,
        "baseline_run_id": "base",
        "model": "toy",
        "model_aligned": True,
        "variant": variant,
        "release": "0.19.8",
        "device": "virtual",
        "policy": policy,
        "schedule": policy,
        "poison": "nan",
        "gradient_accumulation": 1,
        "throughput_timer": True,
        "link": None,
        "axes": {},
        "baseline_variant": "zero3",
        "baseline_device": "virtual",
        "baseline_policy": "native" if policy == "native" else "eager",
        "same_conditions": True,
        "band": True,
        "shape": SHAPE,
        "verdict": verdict,
        "reason": "loss is NaN" if verdict == "diverged" else "",
        "first_bad_step": None if verdict in ("exact", "equivalent") else 3,
        "host_syncs_per_step": 36.0 if variant == "fixed" else 6.0,
        "baseline_host_syncs_per_step": 6.0,
        "step_seconds_ratio": {"median": 1.0, "low": 0.9, "high": 1.1, "n": 12, "too_narrow": False},
        "races": None,
        "evidence": "virtual-device",
        **changes,
    }


def summary(*pairs: dict[str, Any], **parts: Any) -> dict[str, Any]:
    variants = [
        {"variant": name, "extra_host_syncs_per_step": 30.0} for name in {p["variant"] for p in pairs}
    ]
    return {"pairs": list(pairs), "variants": variants, "audit": [], "wire": [], "witness": [], **parts}


def judged(found: dict[str, Any], claim: str, reading: str) -> dict[str, Any]:
    return next(row for row in judge_claims(found) if (row["id"], row["reading_id"]) == (claim, reading))


CONTROL = pair("zero3", "exact")  # ZeRO-3 under the order in which the others fail
KNOWN = summary(
    CONTROL,
    pair("stock", "exact", "eager"),
    pair("stock", "diverged"),
    pair("unordered", "exact", "eager"),
    pair("unordered", "drifted"),
    pair("fixed", "exact", "eager"),
    pair("fixed", "exact"),
    pair("stock", "diverged", "eager", model_aligned=False),
)


def test_every_reading_of_the_file_has_its_rule_and_row() -> None:
    rows = judge_claims(summary())
    assert {f"{row['id']}/{row['reading_id']}" for row in rows} == set(RULES)
    assert {row["verdict"] for row in rows} == {"not tested"}


@pytest.mark.parametrize(
    ("claim", "reading", "verdict"),
    [
        ("race-exists", "race-alone", "supported"),
        ("race-exists", "unordered-access", "not tested"),
        ("stock-diverges", "by-the-race", "supported"),
        ("stock-diverges", "by-the-copy", "supported"),
        ("stock-diverges", "at-full-size", "not tested"),
        ("fix-converges", "bit-exact", "supported"),
        ("fix-converges", "same-quality", "supported"),
        ("fix-is-a-synchronise", "stream-wide", "supported"),
        ("fix-is-a-synchronise", "device-wide", "not tested"),
        ("divergence-is-nan", "nan-losses", "bounded"),
        ("speed-98", "R2", "not tested"),
    ],
)
def test_what_a_laptop_study_says(claim: str, reading: str, verdict: str) -> None:
    row = judged(KNOWN, claim, reading)
    assert row["verdict"] == verdict
    assert bool(row["run_ids"]) == (verdict != "not tested")


def test_one_exception_refutes_bit_exactness_but_not_quality() -> None:
    found = summary(CONTROL, pair("fixed", "equivalent"), pair("fixed", "exact", "eager"))
    assert judged(found, "fix-converges", "bit-exact")["verdict"] == "refuted"
    assert judged(found, "fix-converges", "same-quality")["verdict"] == "supported"


def test_runs_in_order_alone_only_bound_the_fix() -> None:
    assert (
        judged(summary(pair("fixed", "exact", "eager")), "fix-converges", "bit-exact")["verdict"] == "bounded"
    )


def test_a_failing_control_proves_nothing() -> None:
    found = summary(CONTROL, pair("unordered", "drifted"), pair("unordered", "drifted", "eager"))
    row = judged(found, "race-exists", "race-alone")
    assert row["verdict"] == "bounded" and "so does the control" in row["why"]


def test_not_seen_is_not_refuted() -> None:
    row = judged(summary(pair("unordered", "exact")), "race-exists", "race-alone")
    assert row["verdict"] == "bounded"


def test_simulated_time_never_supports() -> None:
    found = summary(
        pair("fixed", "exact", evidence="simulated-time"),
        pair("stock", "diverged", evidence="simulated-time"),
    )
    assert {row["verdict"] for row in judge_claims(found)} <= {"bounded", "not tested"}


def test_a_full_size_failure_below_multi_node_only_bounds() -> None:
    found = summary(pair("stock", "diverged", "native", model="llama2-7b", evidence="one-gpu"))
    row = judged(found, "stock-diverges", "at-full-size")
    assert row["verdict"] == "bounded" and "one-gpu cannot decide it" in row["why"]


@pytest.mark.parametrize(("ratio", "words"), [(1.5, "out of reach"), (2.4, "not excluded")])
def test_bytes_bound_the_98_percent(ratio: float, words: str) -> None:
    audit = [{"recorded_ratio": ratio, "run_ids": ["fixed_side-first_True_"]}]
    row = judged(summary(pair("fixed", "exact"), audit=audit), "speed-98", "R1")
    assert row["verdict"] == "bounded" and words in row["why"]
    assert row["numbers"] == {"largest_ratio_of_bytes": ratio}


WIRE = {"byte_ratio": 1.77, "run_id": "fixed_native_True_cpu", "speed_up": 1.68}


def test_metered_bytes_go_before_counted_ones() -> None:
    audit = [{"recorded_ratio": 2.36, "run_ids": []}]
    found = summary(pair("fixed", "exact", "native", evidence="cpu"), audit=audit, wire=[WIRE])
    row = judged(found, "speed-98", "R1")
    assert row["verdict"] == "bounded" and "1.98 × is out of reach by volume" in row["why"]
    assert row["numbers"] == {"largest_ratio_of_bytes": 1.77, "largest_speed_up": 1.68}


def timed(variant: str, low: float, high: float, **changes: Any) -> dict[str, Any]:
    times = {"median": (low + high) / 2, "low": low, "high": high, "n": 12, "too_narrow": False}
    return pair(
        variant, "exact", "native", evidence="multi-node", step_seconds_ratio=times, device="cuda", **changes
    ) | {"baseline_device": "cuda"}


@pytest.mark.parametrize(
    ("low", "high", "verdict"), [(0.49, 0.50, "supported"), (0.7, 0.8, "refuted"), (0.45, 0.55, "bounded")]
)
def test_the_interval_of_measured_times_decides_the_98_percent(low: float, high: float, verdict: str) -> None:
    assert judged(summary(timed("fixed", low, high)), "speed-98", "R1")["verdict"] == verdict


def test_configurations_that_differ_only_bound_the_98_percent() -> None:
    found = summary(timed("fixed", 0.7, 0.8), timed("fixed", 0.4, 0.45, gradient_accumulation=8))
    row = judged(found, "speed-98", "R1")
    assert row["verdict"] == "bounded" and "reached in 1 of 2 configurations and missed in 1" in row["why"]


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [(1.00, 1.01, "supported"), (1.09, 1.10, "refuted"), (1.00, 1.05, "bounded")],
)
def test_the_share_kept_is_measured_against_stock(low: float, high: float, verdict: str) -> None:
    row = judged(summary(timed("stock", 1.0, 1.0), timed("fixed", low, high)), "speed-98", "R2")
    assert row["verdict"] == verdict


@pytest.mark.parametrize(
    ("claim", "reading"),
    [
        ("fix-converges", "bit-exact"),
        ("fix-converges", "same-quality"),
        ("fix-is-a-synchronise", "stream-wide"),
    ],
)
@pytest.mark.parametrize(
    ("control", "verdict", "words"),
    [
        ([CONTROL], "refuted", "where ZeRO-3 does not fail"),
        ([pair("zero3", "drifted")], "bounded", "in 1 ZeRO-3 itself is not exact"),
        ([], "bounded", "ZeRO-3 was not run under the same order"),
    ],
)
def test_a_failure_speaks_against_the_fix_only_beside_zero3(
    claim: str, reading: str, control: list[dict[str, Any]], verdict: str, words: str
) -> None:
    row = judged(summary(pair("fixed", "drifted"), *control), claim, reading)
    assert row["verdict"] == verdict and words in row["why"]


def test_a_race_is_not_blamed_for_what_strikes_zero3_too() -> None:
    found = summary(pair("unordered", "diverged"), pair("zero3", "drifted"))
    row = judged(found, "race-exists", "race-alone")
    assert row["verdict"] == "bounded" and "in 1 ZeRO-3 itself is not exact or equivalent" in row["why"]


def test_with_the_step_ordered_the_race_has_a_control_of_its_own() -> None:
    found = summary(
        pair("unordered", "diverged"),
        pair("zero3", "drifted"),
        pair("new+none+step", "diverged"),
        pair("zero3+step", "exact"),
    )
    row = judged(found, "race-exists", "race-alone")
    assert row["verdict"] == "supported" and row["run_ids"] == [pair("new+none+step", "diverged")["run_id"]]


def test_a_drift_without_a_band_is_no_loss_of_quality() -> None:
    row = judged(summary(CONTROL, pair("fixed", "drifted", band=False)), "fix-converges", "same-quality")
    assert row["verdict"] == "bounded" and "no tolerance band" in row["why"]


@pytest.mark.parametrize(
    ("poison", "reason", "verdict", "words"),
    [
        ("nan", "loss is NaN", "bounded", "fresh memory was filled with NaN"),
        ("stale", "loss is NaN", "supported", "no memory was filled with NaN"),
        ("stale", "gradient norm is NaN", "bounded", "in none of 1 failed pairs the loss turned NaN"),
    ],
)
def test_nan_counts_where_no_nan_was_planted_and_in_the_loss(
    poison: str, reason: str, verdict: str, words: str
) -> None:
    found = summary(
        pair("stock", "diverged", poison=poison, reason=reason), pair("zero3", "exact", poison=poison)
    )
    row = judged(found, "divergence-is-nan", "nan-losses")
    assert row["verdict"] == verdict and words in row["why"]


def test_races_that_were_analysed_support_the_race() -> None:
    races = {"distinct": 2, "labels": ["hpz-secondary-copy"]}
    assert (
        judged(summary(pair("unordered", "drifted", races=races)), "race-exists", "unordered-access")[
            "verdict"
        ]
        == "supported"
    )


@pytest.mark.parametrize(
    ("site", "verdict"),
    [
        ("runtime/zero/partition_parameters.py:1942 (_partition_param_sec)", "supported"),
        ("runtime/zero/stage3.py:2858 (_reassign_or_swap_out_partitioned_parameters)", "refuted"),
    ],
)
def test_a_sanitizer_that_saw_the_copy_unordered_supports_the_race_and_another_access_does_not(
    site: str, verdict: str
) -> None:
    found = pair("stock", "exact", device="cuda", policy="native", evidence="one-gpu")
    finding = {"first": {"site": site}, "second": {"site": "gather"}, "count": 1}
    witness = [{"run_id": found["run_id"], "findings": [finding]}]
    row = judged(summary(found, witness=witness), "race-exists", "unordered-access")
    assert row["verdict"] == verdict and "torch's stream sanitizer" in row["why"]
    assert row["evidence"] == "one-gpu"


def test_a_missing_claims_file_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(HarnessError, match="cannot be read"):
        judge_claims(summary(), tmp_path / "claims.yaml")


def test_a_claims_file_without_readings_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "claims.yaml"
    file.write_text("claims: [{id: a}]")
    with pytest.raises(HarnessError, match="not a claims file"):
        judge_claims(summary(), file)


def test_the_shipped_file_is_there() -> None:
    assert CLAIMS.is_file()
