"""Claims are judged by stated rules, at the level of the evidence, and never beyond it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from analysis.claims import CLAIMS, RULES, judge_claims
from harness.errors import HarnessError

SHAPE = {"nodes": 2, "ranks_per_node": 2, "hpz": 2}


def pair(variant: str, verdict: str, policy: str = "side-first", **changes: Any) -> dict[str, Any]:
    name = f"{variant}_{policy}_{changes.get('model_aligned', True)}_{changes.get('evidence', '')}"
    return {
        "run_id": name,
        "baseline_run_id": "base",
        "model": "toy",
        "model_aligned": True,
        "variant": variant,
        "policy": policy,
        "shape": SHAPE,
        "verdict": verdict,
        "reason": "loss is NaN" if verdict == "diverged" else "",
        "first_bad_step": None if verdict in ("exact", "equivalent") else 3,
        "host_syncs_per_step": 36.0 if variant == "fixed" else 6.0,
        "baseline_host_syncs_per_step": 6.0,
        "step_seconds_ratio": {"median": 1.0, "low": 0.9, "high": 1.1, "n": 9},
        "races": None,
        "evidence": "virtual-device",
        **changes,
    }


def summary(*pairs: dict[str, Any], audit: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    variants = [
        {"variant": name, "extra_host_syncs_per_step": 30.0} for name in {p["variant"] for p in pairs}
    ]
    return {"pairs": list(pairs), "variants": variants, "audit": audit or []}


def judged(found: dict[str, Any], claim: str, reading: str) -> dict[str, Any]:
    return next(row for row in judge_claims(found) if (row["id"], row["reading_id"]) == (claim, reading))


KNOWN = summary(
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
        ("divergence-is-nan", "nan-losses", "supported"),
        ("speed-98", "R2", "not tested"),
    ],
)
def test_what_a_laptop_study_says(claim: str, reading: str, verdict: str) -> None:
    row = judged(KNOWN, claim, reading)
    assert row["verdict"] == verdict
    assert bool(row["run_ids"]) == (verdict != "not tested")


def test_one_exception_refutes_bit_exactness_but_not_quality() -> None:
    found = summary(pair("fixed", "equivalent"), pair("fixed", "exact", "eager"))
    assert judged(found, "fix-converges", "bit-exact")["verdict"] == "refuted"
    assert judged(found, "fix-converges", "same-quality")["verdict"] == "supported"


def test_runs_in_order_alone_only_bound_the_fix() -> None:
    assert (
        judged(summary(pair("fixed", "exact", "eager")), "fix-converges", "bit-exact")["verdict"] == "bounded"
    )


def test_a_failing_control_proves_nothing() -> None:
    found = summary(pair("unordered", "drifted"), pair("unordered", "drifted", "eager"))
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
    found = summary(pair("stock", "diverged", model="llama2-7b", evidence="one-gpu"))
    row = judged(found, "stock-diverges", "at-full-size")
    assert row["verdict"] == "bounded" and "one-gpu cannot decide it" in row["why"]


@pytest.mark.parametrize(("ratio", "words"), [(1.5, "out of reach"), (2.4, "not excluded")])
def test_bytes_bound_the_98_percent(ratio: float, words: str) -> None:
    audit = [{"recorded_ratio": ratio, "run_ids": ["fixed_side-first_True_"]}]
    row = judged(summary(pair("fixed", "exact"), audit=audit), "speed-98", "R1")
    assert row["verdict"] == "bounded" and words in row["why"]
    assert row["numbers"] == {"largest_ratio_of_bytes": ratio}


@pytest.mark.parametrize(("median", "verdict"), [(0.5, "supported"), (0.8, "refuted")])
def test_measured_times_decide_the_98_percent(median: float, verdict: str) -> None:
    times = {"median": median, "low": median, "high": median, "n": 9}
    found = summary(pair("fixed", "exact", "native", evidence="multi-node", step_seconds_ratio=times))
    assert judged(found, "speed-98", "R1")["verdict"] == verdict


@pytest.mark.parametrize(("fixed", "verdict"), [(1.01, "supported"), (1.10, "refuted")])
def test_the_share_kept_is_measured_against_stock(fixed: float, verdict: str) -> None:
    def timed(variant: str, median: float) -> dict[str, Any]:
        times = {"median": median, "low": median, "high": median, "n": 9}
        return pair(variant, "exact", "native", evidence="multi-node", step_seconds_ratio=times)

    row = judged(summary(timed("stock", 1.0), timed("fixed", fixed)), "speed-98", "R2")
    assert row["verdict"] == verdict


def test_races_that_were_analysed_support_the_race() -> None:
    races = {"distinct": 2, "labels": ["hpz-secondary-copy"]}
    assert (
        judged(summary(pair("unordered", "drifted", races=races)), "race-exists", "unordered-access")[
            "verdict"
        ]
        == "supported"
    )


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
