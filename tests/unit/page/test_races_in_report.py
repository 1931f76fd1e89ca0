"""What race analyses found in a study's runs reaches the page, merged, and shows nothing where there is none."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest

from analysis.collect.collect import collect_study
from analysis.draw.costs import lines_figure
from analysis.judge.pairs import match
from analysis.judge.races import waits
from analysis.judge.summary import load_summary
from analysis.page.races import race_rows
from analysis.page.report import build_report
from analysis.reference.keep import keep
from harness.race.matrix import SCHEMA_FILE, Fault, LineCost, Matrix, Row, json_schema
from harness.race.report import Access, Cost, Effect, Held, Place, Race, Report
from harness.race.table import cost_lines
from harness.record import RunDirectory
from harness.study import Run, load_study
from harness.system.errors import HarnessError
from tests.synthetic import write_study

pytestmark = pytest.mark.usefixtures("made_up_patches")


def access(kind: str, line: int, function: str) -> Access:
    place = Place(file="deepspeed/runtime/zero/partition_parameters.py", line=line, function=function)
    return Access(op="copy_", access=kind, stream="default", low=0, high=64, site=(place,))  # type: ignore[arg-type]


def report(count: int) -> Report:
    race = Race(
        id="abc",
        kind="race",
        label="hpz-secondary-copy",
        first=access("WRITE", 1946, "_partition_param_sec"),
        second=access("READ", 606, "<script>"),
        names={"layers.0.weight": count},
        nbytes=64,
        count=count,
        ranks=(0,),
        effect=Effect(found=True, schedules=3, schedule="the copy after the gather"),
    )
    place = Place(
        file="deepspeed/runtime/zero/partition_parameters.py", line=1951, function="_partition_param_sec"
    )
    return Report(
        program="train",
        ranks=4,
        ops=10,
        races=(race,),
        costs=(Cost(kind="host-wait", reason="stream", place=place, count=39),),
        held=Held(storages_peak=1, accesses_peak=1, accesses_dominated=0, accesses_forgotten=0),
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    study = write_study(tmp_path)
    for run in study.runs:
        if run.variant == "unordered":
            directory = tmp_path / "runs" / run.run_id
            (directory / "races.json").write_text(report(3).model_dump_json())
            (directory / "race-abc.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
    return tmp_path


def test_host_waits_are_drawn_by_source_line(folder: Path) -> None:
    figure = lines_figure(match(load_study(folder), collect_study(folder)))
    assert figure is not None
    assert figure.table["waits_per_run"].to_list() == [39]
    assert set(figure.run_ids) == {run.run_id for run in unordered_runs(folder)}
    assert "partition_parameters.py:1951 _partition_param_sec (stream)" in figure.svg()


def unordered_runs(folder: Path) -> list[Run]:
    return [run for run in load_study(folder).runs if run.variant == "unordered"]


def test_one_race_of_several_runs_is_one_row(folder: Path) -> None:
    (row,) = race_rows(match(load_study(folder), collect_study(folder)), folder)
    assert (row.count, row.variants) == (6, ["unordered"])
    assert sorted(row.run_ids) == sorted(run.run_id for run in unordered_runs(folder))
    assert (
        row.first
        == "write on default, deepspeed/runtime/zero/partition_parameters.py:1946 _partition_param_sec"
    )
    assert row.effect == "values change: the copy after the gather"


def test_waits_are_counted_by_source_line(folder: Path) -> None:
    found = waits(match(load_study(folder), collect_study(folder)))
    assert {(wait.place, wait.count) for wait in found} == {
        ("deepspeed/runtime/zero/partition_parameters.py:1951 _partition_param_sec", 39)
    }


def test_the_page_shows_races_with_their_picture_as_an_image(folder: Path) -> None:
    page = build_report(folder).read_text()
    assert 'id="races"' in page and 'src="data:image/svg+xml;base64,' in page
    assert "<script>`" not in page and "606 &lt;script&gt;" in page


def test_a_claim_is_judged_by_the_races(folder: Path) -> None:
    build_report(folder)
    claims = {(c["id"], c["reading_id"]): c["verdict"] for c in load_summary(folder)["claims"]}
    assert claims["race-exists", "unordered-access"] == "supported"


def test_without_an_analysis_the_page_has_no_races(tmp_path: Path) -> None:
    write_study(tmp_path)
    assert 'id="races"' not in build_report(tmp_path).read_text()


# ---- a study that was analysed and not trained


def row(run: Run, *labels: str) -> Row:
    return Row(
        run_id=run.run_id,
        model=run.model,
        release=run.release,
        variant=run.variant,
        shape=str(run.shape),
        overlap_comm=True,
        gradient_accumulation=1,
        activation_checkpointing=False,
        throughput_timer=True,
        races=len(labels),
        cases=len(labels),
        labels=labels,
        unnamed=(),
        last_step={},
        steps=4,
        host_waits=20.0,
        event_records=100.0,
        stream_waits=90.0,
    )


@pytest.fixture
def analysed(tmp_path: Path) -> Path:
    """Every run was analysed, as `hpz race STUDY` leaves them, and none was trained to its end."""
    study = write_study(tmp_path, curve=lambda run: None)
    for run in study.runs:
        RunDirectory(tmp_path / "runs" / run.run_id).create(run)
    racing = {"stock", "unordered"}
    rows = [row(run, *(["hpz-secondary-copy"] if run.variant in racing else [])) for run in study.runs]
    run = next(run for run in study.runs if run.variant == "unordered")
    (tmp_path / "runs" / run.run_id / "races.json").write_text(report(3).model_dump_json())
    effect = Effect(
        found=True, schedules=3, changed="the loss of step 2 is 5.4 instead of 5.3", replay="replay-abc.json"
    )
    fault = Fault(
        name="hpz-secondary-copy", release=run.release, run_id=run.run_id, report="races.json", effect=effect
    )
    costs = (
        LineCost(
            release=run.release,
            variant=run.variant,
            overlap_comm=True,
            kind="host-wait",
            reason="stream",
            place="partition_parameters.py:1951 _partition_param_sec",
            per_step=21.0,
            runs=2,
        ),
    )
    matrix = Matrix(
        study=study.name,
        question=study.question,
        rows=tuple(rows),
        faults=(fault,),
        costs=costs,
        seconds=1.0,
        analysed=2,
    )
    (tmp_path / "races.json").write_text(matrix.model_dump_json())
    return tmp_path


def test_an_analysed_study_answers_by_its_races(analysed: Path) -> None:
    text = build_report(analysed).read_text()
    assert "hpZ&#39;s race is open in stock, unordered; closed in fixed, event." in text
    assert "the loss of step 2 is 5.4 instead of 5.3; hpz race --replay replay-abc.json" in text
    assert 'id="verdicts"' not in text and "Not drawn" not in text


def test_its_costs_stand_by_source_line_on_the_page_and_in_the_terminal(analysed: Path) -> None:
    text = build_report(analysed).read_text()
    assert "<td><code>partition_parameters.py:1951 _partition_param_sec</code></td><td>stream</td>" in text
    matrix = Matrix.model_validate_json((analysed / "races.json").read_text())
    assert list(cost_lines(matrix))[1:] == [
        "  unordered: partition_parameters.py:1951 _partition_param_sec (stream) 21"
    ]


def test_its_table_has_a_row_for_each_variant(analysed: Path) -> None:
    build_report(analysed)
    rows = (load_summary(analysed)["races"] or {})["rows"]
    assert {(row["variant"], row["found"]) for row in rows} == {
        ("stock", "hpz-secondary-copy 2/2"),
        ("unordered", "hpz-secondary-copy 2/2"),
        ("fixed", "none"),
        ("event", "none"),
        ("zero3", "none"),
    }
    assert "## Missing order" in (analysed / "report.md").read_text()


def test_what_was_only_analysed_bears_on_the_claim(analysed: Path) -> None:
    build_report(analysed)
    claims = {(c["id"], c["reading_id"]): c["verdict"] for c in load_summary(analysed)["claims"]}
    assert claims["race-exists", "unordered-access"] == "supported"


def test_a_foreign_matrix_is_named(analysed: Path) -> None:
    (analysed / "races.json").write_text('{"rows": []}')
    with pytest.raises(HarnessError, match=r"races.json: study: .* run hpz race on the study again"):
        build_report(analysed)


def test_what_is_kept_of_it_gives_the_same_answer(analysed: Path) -> None:
    for run in load_study(analysed).runs:
        (analysed / "runs" / run.run_id / "races.json").write_text(report(3).model_dump_json())
    (run_folder := analysed / "runs" / unordered_runs(analysed)[0].run_id / "replay-abc.json").write_text(
        "{}"
    )
    kept = keep(analysed, analysed / "kept")
    assert (kept / "races" / run_folder.parent.name / "replay-abc.json").exists()
    build_report(analysed)
    build_report(kept)
    mine, theirs = (dict(load_summary(folder)["races"] or {}) for folder in (kept, analysed))
    (fault,) = mine.pop("faults")
    assert Path(fault["replay"]).is_file(), "the page prints a command that works"
    assert mine == {name: value for name, value in theirs.items() if name != "faults"}


def test_the_matrix_follows_the_documented_schema(analysed: Path) -> None:
    schema = json.loads(SCHEMA_FILE.read_text())
    assert schema == json_schema(), "run: python -m harness.race.schemas"
    jsonschema.validate(json.loads((analysed / "races.json").read_text()), schema)
