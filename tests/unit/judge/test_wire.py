"""Link rates as an axis of a study, and what the report says of the bytes on the wire."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pandas as pd
import pytest

from analysis.collect.collect import collect_study
from analysis.judge.summary import summarise
from analysis.judge.wire import unfilled
from analysis.page.report import build_report
from harness.launch.local import run_study
from harness.record import RunDirectory
from harness.study import Study, load_study
from harness.study.axes import parse_link
from harness.system.errors import HarnessError
from harness.system.places import REPOSITORY
from tests.synthetic import STUDY, Curve, healthy, write_study

pytestmark = pytest.mark.usefixtures("made_up_patches", "svg_alone")
MATRIX = {
    "model": "toy",
    "variant": "fixed",
    "shape": "2x2-hpz2",
    "device": "cpu",
    "link": ["50mbit", "1gbit"],
}
CHANGES: dict[str, Any] = {
    "device": "cpu",
    "baseline": {"variant": "zero3"},
    "data": {"source": "hub", "path": "made-up"},
    "matrix": [MATRIX],
}


def write_metered(folder: Path) -> Study:
    """zero3 sends 4 MB a step, fixed 3 MB; over the slow link steps take as long as their bytes."""

    def curve(run: Any) -> Curve:
        hpz = run.shape.hpz > 1
        seconds = (0.5 if hpz else 0.64) if run.link == "50mbit" else 0.1
        return Curve(healthy(run), secondary_gathers=30 if hpz else 0, step_seconds=[seconds])

    study = write_study(folder, curve, **CHANGES)
    for run in study.runs:
        file = RunDirectory(folder / "runs" / run.run_id).steps_file
        sent = 3_000_000 if run.shape.hpz > 1 else 4_000_000
        metered = {"wire_bytes": sent, "wire_bytes_predicted": sent + 30_000}
        lines = [json.loads(line) | metered for line in file.read_text().splitlines()]
        file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return study


def test_each_link_has_its_own_baseline() -> None:
    study = Study.model_validate({**STUDY, **CHANGES})
    assert len(study.runs) == 4
    assert all(run.link == baseline.link for run, baseline in study.pairs)
    assert "50mbit" in study.runs[0].run_id


def test_a_study_without_links_keeps_its_run_ids() -> None:
    plain = Study.model_validate({**STUDY, **CHANGES, "matrix": [{**MATRIX, "link": None}]})
    bare = {key: value for key, value in MATRIX.items() if key != "link"}
    assert [run.run_id for run in plain.runs] == [
        run.run_id for run in Study.model_validate({**STUDY, **CHANGES, "matrix": [bare]}).runs
    ]


@pytest.mark.parametrize(
    ("value", "device", "message"), [("fast", "cpu", "not a rate"), ("1gbit", "virtual", "no network")]
)
def test_links_that_cannot_be_are_refused(value: str, device: str, message: str) -> None:
    with pytest.raises(HarnessError, match=message):
        parse_link(value, device)


def test_links_are_not_pretended_on_this_machine(tmp_path: Path) -> None:
    with pytest.raises(HarnessError, match="hpz cluster up"):
        run_study(Study.model_validate({**STUDY, **CHANGES}), tmp_path)


def test_the_summary_sets_the_speed_up_beside_the_bytes(tmp_path: Path) -> None:
    write_metered(tmp_path)
    summary = summarise(load_study(tmp_path), collect_study(tmp_path))
    jsonschema.validate(summary, json.loads((REPOSITORY / "analysis/schema/summary.schema.json").read_text()))
    slow, fast = summary["wire"]
    assert (slow["link"], fast["link"]) == ("50mbit", "1gbit")
    assert slow["byte_ratio"] == pytest.approx(4 / 3)
    assert slow["ring_byte_ratio"] == 1.5
    assert slow["speed_up"] == pytest.approx(0.64 / 0.5)
    assert slow["baseline_link_seconds"] == pytest.approx(4e6 * 8 / 50e6)
    assert slow["wire_bytes_predicted"] == 3_030_000
    assert fast["speed_up"] == pytest.approx(1)


@pytest.mark.parametrize(
    ("ours", "theirs", "same"),
    [
        ({"allocations": ["7_0/0"]}, {"allocations": ["7_0/0"]}, True),
        ({"allocations": ["7_0/0"]}, {"allocations": ["7_0/0", "7_0/1"]}, False),  # a requeue in between
        ({"network": {"utc": "today", "rows": []}}, {"network": {"utc": "today", "rows": []}}, True),
        ({}, {}, False),
    ],
)
def test_a_pair_shares_its_nodes_where_the_same_allocations_made_its_steps(
    ours: dict[str, Any], theirs: dict[str, Any], same: bool, tmp_path: Path
) -> None:
    study = write_metered(tmp_path)
    for run in study.runs:
        changes = ours if run.shape.hpz > 1 else theirs
        RunDirectory(tmp_path / "runs" / run.run_id).update_status(**changes)
    summary = summarise(study, collect_study(tmp_path))
    assert [record["same_allocation"] for record in summary["wire"]] == [same, same]


def test_the_report_shows_the_wire_only_where_it_was_metered(tmp_path: Path) -> None:
    write_metered(tmp_path / "metered")
    page = build_report(tmp_path / "metered").read_text()
    assert "On the wire" in page and "+1.0 %" in page and "50mbit" in page
    write_study(tmp_path / "plain")
    assert "On the wire" not in build_report(tmp_path / "plain").read_text()


def test_the_first_sentence_and_a_figure_tell_the_speed(tmp_path: Path) -> None:
    write_metered(tmp_path)
    page = build_report(tmp_path).read_text()
    assert (
        "Over links of 50mbit hpZ is 1.28 to 1.28 times as fast as its baseline, 96% to 96% of what" in page
    )
    drawn = pd.read_csv(tmp_path / "figures" / "speed_by_link.csv", comment="#")
    assert drawn[["link", "speed_up"]].round(2).to_numpy().tolist() == [["50mbit", 1.28], ["1gbit", 1.0]]


def test_two_faults_are_told_apart_only_where_one_could_show(tmp_path: Path) -> None:
    write_metered(tmp_path)
    assert 'id="faults"' not in build_report(tmp_path).read_text()


def test_a_link_that_was_never_full_is_named() -> None:
    records = [
        {"link": "50mbit", "bus_gbit_s": 0.047},
        {"link": "1000mbit", "bus_gbit_s": 0.336},
        {"link": None, "bus_gbit_s": 4.0},
        {"link": "200mbit", "bus_gbit_s": None},
    ]
    assert unfilled(records) == {"1000mbit": 0.336}
