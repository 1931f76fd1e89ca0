"""Step time by rank in the report: the slow rank by name, and no word of one where all is noise."""

from __future__ import annotations

from pathlib import Path

import jsonschema
import pytest

from analysis.judge.summary import summarise_folder
from analysis.page.report import build_report
from analysis.reference.keep import keep
from harness.record import RunDirectory
from harness.study import Run
from tests.synthetic import Curve, healthy, write_study
from tests.unit.judge.test_summary import SCHEMA
from tests.unit.judge.test_wire import CHANGES
from tests.unit.record.test_ranks import windows

pytestmark = pytest.mark.usefixtures("made_up_patches")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """In the runs of hpZ rank 3 is slow, in those of ZeRO-3 nobody is."""

    def curve(run: Run) -> Curve:
        return Curve(healthy(run), secondary_gathers=30 if run.shape.hpz > 1 else 0)

    study = write_study(tmp_path / "made-up", curve, **CHANGES)
    for run in study.runs:
        own = [0.1, 0.1, 0.1, 0.14 if run.shape.hpz > 1 else 0.1]
        file = RunDirectory(tmp_path / "made-up" / "runs" / run.run_id).ranks_file
        file.write_text("".join(window.line() for window in windows(own)))
    return tmp_path / "made-up"


def test_the_slow_rank_is_named_with_its_node_and_what_it_costs(folder: Path) -> None:
    summary = summarise_folder(folder)
    jsonschema.validate(summary, SCHEMA)
    assert {one["variant"]: bool(one["slow"]) for one in summary["stragglers"]} == {
        "zero3": False,
        "fixed": True,
    }
    page = build_report(folder).read_text()
    assert "In 2 of 4 runs a rank is slow by more than noise." in page and "rank 3 on n1: 4" in page
    assert "## Slow ranks" in (folder / "report.md").read_text()


def test_times_by_rank_are_kept_with_reference_results(folder: Path, tmp_path: Path) -> None:
    kept = keep(folder, tmp_path / "kept")
    assert summarise_folder(kept)["stragglers"] == summarise_folder(folder)["stragglers"]


def test_runs_without_times_by_rank_have_no_such_section(folder: Path) -> None:
    for file in folder.glob("runs/*/ranks.jsonl"):
        file.unlink()
    assert 'id="ranks"' not in build_report(folder).read_text()
    assert "## Slow ranks" not in (folder / "report.md").read_text()
