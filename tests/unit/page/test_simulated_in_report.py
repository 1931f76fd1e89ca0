"""Simulated time reaches the report with its errors first, labelled, and never supports a claim."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pandas as pd
import pytest

from analysis.collect.collect import collect
from analysis.draw.drawing import build_figures
from analysis.judge.clock_tables import load_clock
from analysis.judge.summary import load_summary
from analysis.judge.trust import caveat, percent, trust
from analysis.page.report import build_report
from analysis.page.simulated import section
from analysis.reference.keep import keep
from harness.simulate import validate as validation_module
from harness.simulate.records import Simulated
from harness.simulate.tables import write
from harness.simulate.validate import Validation, measured_runs, read_validation, validate, write_validation
from harness.study import Study, save_study
from harness.system.errors import HarnessError
from harness.system.places import REPOSITORY
from tests.simulated_help import made_up
from tests.synthetic import STUDY, fake_patches, write_study

pytestmark = pytest.mark.usefixtures("made_up_patches")
SCHEMA = json.loads((REPOSITORY / "analysis" / "schema" / "summary.schema.json").read_text())
PUBLISHED = {
    "id": "somebody",
    "statement": "8 GPUs, 10 and 15 samples/s",
    "source": "a pull request",
    "unknown": "the network",
    "shape": "1x8-hpz8",
    "network": "ethernet-100gbps",
    "measured_baseline_samples_per_second": 10.0,
    "measured_samples_per_second": 15.0,
    "simulated_baseline_samples_per_second": 20.0,
    "simulated_samples_per_second": 33.0,
    "baseline_error": 1.0,
    "error": 1.2,
    "measured_speedup": 1.5,
    "measured_speedup_high": None,
    "simulated_speedup": 1.65,
    "speedup_error": 0.1,
    "comparable": True,
    "judgement": "compared",
    "evidence": "simulated-time",
}
STEP = {
    "model": "toy",
    "gradient_accumulation": 1,
    "link": "50mbit",
    "link_bits_per_second": 5e7,
    "measured_evidence": "cpu",
    "evidence": "simulated-time",
}
MEASURED = [
    STEP
    | {"run_id": "zero3_a", "variant": "zero3", "measured_seconds": 2.0, "simulated_seconds": 1.5}
    | {"error": -0.25, "measured_speedup": 1.0, "simulated_speedup": 1.0, "speedup_error": 0.0},
    STEP
    | {"run_id": "fixed_a", "variant": "fixed", "measured_seconds": 1.6, "simulated_seconds": 1.0}
    | {"error": -0.375, "measured_speedup": 1.25, "simulated_speedup": 1.5, "speedup_error": 0.2},
]
ABOUT: dict[str, Any] = {"measured": "slow-link", "not_validated": ["The window: nobody measured it."]}


def write_simulated(folder: Path, simulated: Simulated | None = None, validated: bool = True) -> Path:
    """A results folder in which a study was only simulated."""
    save_study(Study.model_validate(STUDY), folder)
    write(simulated or made_up(), folder / "simulated")
    if validated:
        held = Validation(pd.DataFrame([PUBLISHED]), pd.DataFrame(MEASURED), ABOUT)
        write_validation(held, folder / "simulated")
    return folder


@pytest.fixture(scope="module")
def only(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a study that was only simulated, reported."""
    folder = tmp_path_factory.mktemp("only")
    with pytest.MonkeyPatch.context() as patch:
        fake_patches(patch)
        build_report(write_simulated(folder))
    return folder


def page_of(folder: Path) -> str:
    return (folder / "report.html").read_text()


def claims_of(folder: Path) -> dict[tuple[str, str], dict[str, Any]]:
    return {(claim["id"], claim["reading_id"]): claim for claim in load_summary(folder)["claims"]}


def test_a_study_that_was_only_simulated_has_a_report_without_what_was_not_run(only: Path) -> None:
    page = page_of(only)
    assert "Nothing was run. In simulated time the race strikes in 1 of 3 settings at full size" in page
    assert 'id="simulated"' in page
    assert not any(f'id="{name}"' in page for name in ("verdicts", "curves", "faults", "numbers"))


def test_errors_stand_before_the_numbers_and_beside_them(only: Path) -> None:
    page = page_of(only)
    places = [
        page.index(words) for words in ("How far to trust it", "What each ordering costs", "Both readings")
    ]
    assert places == sorted(places)
    assert "simulated steps are 2.0 to 2.2 times as fast as the measured ones" in page
    assert "step times are off by 31 % at 50mbit in the median" in page
    assert page.count("speed-ups off by +10 %, steps 2.0 to 2.2 times too fast") >= 3
    assert "The window: nobody measured it." in page
    assert "Simulated against measured" in page


def test_without_validation_that_is_said(tmp_path: Path) -> None:
    clock = load_clock(write_simulated(tmp_path, validated=False), "made-up")
    assert clock is not None
    assert trust(clock.validation) == ["Nothing here was held against a measurement."]
    assert caveat(clock.validation) == "not held against any measurement"


def test_both_readings_are_bounded_with_numbers_and_runs(only: Path) -> None:
    first, second = (claims_of(only)["speed-98", reading] for reading in ("R1", "R2"))
    assert (first["verdict"], first["evidence"]) == (second["verdict"], second["evidence"])
    assert (first["verdict"], first["evidence"]) == ("bounded", "simulated-time")
    assert first["numbers"]["largest_ratio_of_bytes"] == pytest.approx(2.0)
    assert "1.98 × is not excluded by them" in first["why"]
    assert second["numbers"]["lowest"] == pytest.approx(2.0 / 2.1)
    assert second["run_ids"] == ["fixed_64", "unordered_64"]
    assert "times too fast" in first["why"] and "times too fast" in second["why"]


def test_simulated_time_supports_and_refutes_nothing(only: Path) -> None:
    claims = claims_of(only)
    assert {claim["verdict"] for claim in claims.values()} == {"bounded", "not tested"}
    full_size = claims["stock-diverges", "at-full-size"]
    assert full_size["verdict"] == "bounded" and "losses were not computed" in full_size["why"]


def test_the_summary_keeps_to_its_schema(only: Path) -> None:
    summary = load_summary(only)
    jsonschema.validate(summary, SCHEMA)
    assert summary["simulated"]["order_costs"]["fixed"] == pytest.approx([0.05, 0.05])
    assert summary["simulated"]["windows"]["by_code"] == {"unordered of DeepSpeed 0.19.8": [1, 0, 3]}


def test_what_was_not_computed_is_hidden(tmp_path: Path) -> None:
    only = Simulated("made-up", made_up().table("scaling"), made_up().margins)
    page = build_report(write_simulated(tmp_path, only)).read_text()
    assert "Scaling, and what limits" in page
    assert "a node sends" in page and "20 GB" in page
    for heading in ("What each ordering costs", "Both readings", "Where the race strikes", "Sizes of hpZ"):
        assert f"<h3>{heading}" not in page


def test_runs_and_simulated_time_stand_in_one_report(tmp_path: Path) -> None:
    write_study(tmp_path)
    page = build_report(write_simulated(tmp_path)).read_text()
    assert 'id="verdicts"' in page and 'id="simulated"' in page
    assert "Not safe: stock and unordered." in page
    assert claims_of(tmp_path)["fix-converges", "bit-exact"]["verdict"] == "supported"


def test_a_study_that_was_not_simulated_shows_nothing_of_it(tmp_path: Path) -> None:
    write_study(tmp_path)
    assert 'id="simulated"' not in build_report(tmp_path).read_text()
    assert load_summary(tmp_path)["simulated"] is None
    assert not (tmp_path / "simulated.tex").exists()


def test_a_small_step_travels_in_the_page_and_a_large_one_beside_it(tmp_path: Path) -> None:
    clock = load_clock(write_simulated(tmp_path), "made-up")
    for size, address in ((100, "data:application/gzip;base64,"), (400_000, "simulated/step.json.gz")):
        (tmp_path / "simulated" / "step.json.gz").write_bytes(b"x" * size)
        shown = section(clock)
        assert shown is not None and str(shown.step).startswith(address)


def test_text_and_table_carry_level_and_errors(only: Path) -> None:
    text, table = ((only / name).read_text() for name in ("report.md", "simulated.tex"))
    assert text.index("How far to trust it") < text.index("What an ordering adds")
    assert "## Verdicts" not in text and "`simulated-time`" in text
    assert "evidence: simulated-time" in table and "times too fast" in table
    assert r"+5.0 \%" in table


def test_reference_results_are_small_and_give_the_same_figures(tmp_path: Path) -> None:
    source = write_simulated(tmp_path / "results")
    target = keep(source, tmp_path / "reference")
    kept = {file.name for file in (target / "simulated").iterdir()}
    assert kept == {
        "cells.csv",
        "corners.csv",
        "margins.csv",
        "validation.json",
        "validation_published.csv",
        "validation_measured.csv",
    }
    for folder in (source, target):
        drawn = build_figures(folder)
        assert len(drawn) == 9 and all(
            figure.svg for figure in drawn
        )  # eight of simulated time, and the copy
    for file in (source / "figures").glob("*.svg"):
        assert (target / "figures" / file.name).read_bytes() == file.read_bytes()


@pytest.mark.parametrize(
    ("value", "text"), [(0.0, "0 %"), (0.004, "0 %"), (-0.26, "−26 %"), (0.5, "+50 %"), (-0.001, "0 %")]
)
def test_errors_are_signed(value: float, text: str) -> None:
    assert percent(value) == text


# ---- what measured runs there are


@pytest.fixture
def nothing_published(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(validation_module, "validate_published", lambda **_: pd.DataFrame([PUBLISHED]))
    monkeypatch.setattr(validation_module, "MEASURED", (tmp_path / "nowhere",))
    few = tmp_path / "published.csv"  # of which others simulate every row
    few.write_text("".join(validation_module.MEASUREMENTS.read_text().splitlines(keepends=True)[:3]))
    monkeypatch.setattr(validation_module, "MEASUREMENTS", few)


@pytest.mark.usefixtures("nothing_published")
@pytest.mark.usefixtures("nothing_published")
def test_a_machine_without_measured_runs_says_so(tmp_path: Path) -> None:
    write_validation(validate(collect), tmp_path)
    found = read_validation(tmp_path)
    assert found is not None and not len(found.measured)
    assert "run that study, then simulate again" in found.about["measured"]


def over_a_link(folder: Path) -> Path:
    """Results of a small study whose link has a known rate."""
    matrix = {"model": "toy", "variant": "fixed", "shape": "2x2-hpz2", "link": "50mbit"}
    write_study(folder, matrix=[matrix], device="cpu", baseline={"variant": "zero3"})
    return folder


@pytest.mark.usefixtures("nothing_published")
def test_another_machines_runs_are_left_out_where_its_calibration_is_not_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = keep(over_a_link(tmp_path / "runs"), tmp_path / "results" / "reference" / "slow")
    monkeypatch.setattr(validation_module, "REPOSITORY", tmp_path)
    about = validate(collect, kept).about
    assert about["measured"] == "slow was run on another machine, and its calibration is not known"


@pytest.mark.usefixtures("nothing_published")
def test_results_without_a_finished_run_are_passed_over_and_refused_where_they_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a study leaves them that was submitted and has not begun, or that ran without a limited link."""
    submitted, unlinked = tmp_path / "submitted", tmp_path / "unlinked"
    save_study(Study.model_validate(STUDY), submitted)
    write_study(unlinked)
    monkeypatch.setattr(validation_module, "MEASURED", (submitted, unlinked))
    assert "run that study, then simulate again" in validate(collect).about["measured"]
    with pytest.raises(HarnessError, match=r"unlinked: holds no finished run over a link of known rate; run"):
        validate(collect, unlinked)


def test_measured_runs_are_read_from_run_directories_and_from_kept_tables(tmp_path: Path) -> None:
    found = measured_runs(over_a_link(tmp_path / "runs-of-a-study"), collect)
    assert {(one.run.variant, one.bits_per_second) for one in found} == {("zero3", 5e7), ("fixed", 5e7)}
    again = measured_runs(keep(tmp_path / "runs-of-a-study", tmp_path / "reference"), collect)
    assert [(one.run_id, one.seconds) for one in again] == [(one.run_id, one.seconds) for one in found]


def test_a_folder_without_results_is_named(tmp_path: Path) -> None:
    with pytest.raises(HarnessError, match="holds neither"):
        measured_runs(tmp_path, collect)
