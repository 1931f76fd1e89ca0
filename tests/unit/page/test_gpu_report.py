"""GPU runs in the report: strikes against the stall with exact intervals, costs, and the other evidence beside them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from analysis.judge.gpu import proportion
from analysis.judge.summary import load_summary, summarise_folder
from analysis.page.levels import beside
from analysis.page.report import build_report
from analysis.reference.keep import keep
from harness.record import StepRecord
from harness.study import Run
from tests.synthetic import Curve, healthy, write_study
from tests.unit.judge.test_summary import SCHEMA

pytestmark = pytest.mark.usefixtures("made_up_patches")

STALLED: dict[str, Any] = {
    "name": "one-gpu",
    "device": "cuda",
    "virtual_nodes": True,
    "baseline": {"variant": "zero3", "stall_us": 0},
    "matrix": {
        "model": "toy",
        "variant": ["unordered", "fixed", "event"],
        "shape": "2x2-hpz2",
        "seed": [1, 2, 3],
        "stall_us": [0, 300, 3000],
    },
}


class Timed(Curve):
    """A curve whose steps carry what only a GPU measures."""

    def records(self) -> list[StepRecord]:
        waits = (self.host_syncs or 0) * 1e-4
        return [replace(one, device_seconds=0.05, host_blocked_seconds=waits) for one in super().records()]


def as_stalled(run: Run) -> Curve:
    """Unordered breaks at step 4 under 3 ms, in one seed of three under 0.3 ms, and never by itself."""
    loss = healthy(run)
    if run.variant == "unordered" and (run.stall_us == 3000 or (run.stall_us == 300 and run.seed == 2)):
        loss[4:] = [value + 1 for value in loss[4:]]
    return Timed(
        loss,
        secondary_gathers=30 if run.shape.hpz > 1 else 0,
        host_syncs=30 if run.variant == "fixed" else 6,
        step_seconds=[0.11 if run.variant == "fixed" else 0.1],
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_study(tmp_path / "one-gpu", as_stalled, **STALLED)
    return tmp_path / "one-gpu"


def rates(summary: dict[str, Any], variant: str) -> dict[int, tuple[int, int, int]]:
    """Stall → runs struck, runs, and steps that could have been struck."""
    return {
        rate["stall_us"]: (rate["runs"]["hits"], rate["runs"]["trials"], rate["steps"]["trials"])
        for rate in summary["gpu"]["rates"]
        if rate["variant"] == variant
    }


def test_strikes_are_counted_by_stall_until_the_first_of_each_run(folder: Path) -> None:
    summary = summarise_folder(folder)
    jsonschema.validate(summary, SCHEMA)
    assert rates(summary, "unordered") == {0: (0, 3, 36), 300: (1, 3, 29), 3000: (3, 3, 15)}
    assert rates(summary, "fixed") == {0: (0, 3, 36), 300: (0, 3, 36), 3000: (0, 3, 36)}
    assert {rate["evidence"] for rate in summary["gpu"]["rates"]} == {"one-gpu"}


def test_an_interval_is_exact() -> None:
    none = proportion(0, 3, 0.95)
    assert none["low"] == 0 and none["high"] == pytest.approx(1 - 0.025 ** (1 / 3))
    assert proportion(3, 3, 0.95)["low"] == pytest.approx(0.025 ** (1 / 3))


def test_costs_are_of_unstalled_runs_against_an_unstalled_baseline(folder: Path) -> None:
    summary = summarise_folder(folder)
    costs = {cost["variant"]: cost for cost in summary["gpu"]["costs"]}
    assert costs["fixed"]["step_seconds_ratio"]["median"] == pytest.approx(1.1)
    assert costs["fixed"]["step_seconds_ratio"]["n"] == 3  # seeds: the steps of one run are not independent
    assert costs["event"]["device_seconds_ratio"]["median"] == pytest.approx(1.0)
    assert costs["fixed"]["host_blocked_seconds"] == pytest.approx(3e-3)
    assert costs["fixed"]["baseline_host_syncs"] == 6
    stalled = [pair for pair in summary["pairs"] if pair["stall_us"]]
    assert stalled and all(pair["step_seconds_ratio"] is None for pair in stalled)


def test_a_gpu_at_its_own_rate_acquits_nobody(tmp_path: Path) -> None:
    matrix = {**STALLED["matrix"], "stall_us": 0}
    write_study(tmp_path / "natural", as_stalled, **{**STALLED, "matrix": matrix})
    safe = {one["variant"]: one["safe"] for one in summarise_folder(tmp_path / "natural")["variants"]}
    assert safe == {"unordered": None, "fixed": None, "event": None}
    claims = {claim["id"]: claim["verdict"] for claim in summarise_folder(tmp_path / "natural")["claims"]}
    assert "refuted" not in claims.values()


def test_under_a_stall_what_stands_is_told_from_what_does_not(folder: Path) -> None:
    safe = {one["variant"]: one["safe"] for one in summarise_folder(folder)["variants"]}
    assert safe == {"unordered": False, "fixed": True, "event": True}


def test_the_page_shows_rates_with_their_figure(folder: Path) -> None:
    page = build_report(folder).read_text()
    assert 'id="gpu"' in page and "1 of 3: 0.33 [0.0084, 0.91]" in page
    assert "stall 3000 µs" in page
    assert (folder / "figures" / "race_rate.csv").is_file()


def test_profiles_are_linked_and_kept(folder: Path, tmp_path: Path) -> None:
    run = next((folder / "runs").iterdir())
    (run / "profile-0.json.gz").write_bytes(b"a trace")
    assert f'href="runs/{run.name}/profile-0.json.gz"' in build_report(folder).read_text()
    kept = keep(folder, tmp_path / "reference")
    assert f'href="witness/{run.name}/profile-0.json.gz"' in build_report(kept).read_text()


def test_a_study_without_gpu_runs_shows_none_of_it(tmp_path: Path) -> None:
    write_study(tmp_path / "laptop")
    page = build_report(tmp_path / "laptop").read_text()
    assert 'id="gpu"' not in page
    assert load_summary(tmp_path / "laptop")["gpu"] is None
    assert not (tmp_path / "laptop" / "figures" / "race_rate.csv").exists()


def test_other_evidence_stands_beside_it_and_differences_come_first(folder: Path, tmp_path: Path) -> None:
    write_study(tmp_path / "laptop")
    build_report(tmp_path / "laptop")
    page = build_report(folder, against=tmp_path / "laptop").read_text()
    rows = beside(load_summary(folder), load_summary(tmp_path / "laptop"))
    assert {(row["variant"], row["agree"]) for row in rows} == {
        ("unordered", True),
        ("fixed", True),
        ("event", True),
    }
    unordered = next(row for row in rows if row["variant"] == "unordered")
    assert unordered["ours"]["under"] == "native: 0 of 3; stall 300 µs: 1 of 3; stall 3000 µs: 3 of 3"
    assert unordered["theirs"]["under"] == "eager: 0 of 1; side-first: 1 of 1"
    assert "They differ in 0 of 3 cells" in page


def test_a_disagreement_is_named(tmp_path: Path) -> None:
    matrix = {**STALLED["matrix"], "stall_us": 0}
    write_study(tmp_path / "natural", as_stalled, **{**STALLED, "matrix": matrix})
    write_study(tmp_path / "laptop")
    for name in ("natural", "laptop"):
        build_report(tmp_path / name)
    first, *others = beside(load_summary(tmp_path / "natural"), load_summary(tmp_path / "laptop"))
    assert (first["variant"], first["agree"]) == ("unordered", False)
    assert all(row["agree"] for row in others)
