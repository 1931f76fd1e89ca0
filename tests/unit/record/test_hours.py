"""Hours of runs on SLURM, from made-up turns: two ranks, steps of 100 s, starts of 20 s."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from analysis.page.report import build_report
from harness.budget import spent_hours
from harness.record import Final, RunDirectory, StepRecord, StepWriter
from harness.record.hours import Turn, close_lost_turn, read_turns, run_hours, study_hours
from harness.study import Study, load_study, save_study
from harness.system.places import REPOSITORY
from tests.conftest import StudyFile

FINAL = Final(steps=4, skipped_steps=0, shards_sha256="0" * 64)


def at(second: float) -> str:
    whole, thousandths = divmod(round(1000 * second), 1000)
    return f"2026-01-01T{whole // 3600:02}:{whole // 60 % 60:02}:{whole % 60:02}.{thousandths:03}Z"


@pytest.fixture
def study(study_file: StudyFile) -> Study:
    return load_study(study_file(matrix={"model": "llama2-toy", "variant": "fixed", "shape": "1x2-hpz2"}))


@pytest.fixture
def directory(study: Study, tmp_path: Path) -> RunDirectory:
    return made(study, tmp_path, 0)


def made(study: Study, results: Path, index: int) -> RunDirectory:
    """A run of four steps that are recorded."""
    directory = RunDirectory(results / "runs" / study.runs[index].run_id)
    directory.create(study.runs[index])
    writer = StepWriter(directory.steps_file)
    for step in range(4):
        writer.write(StepRecord(step, 4.0, 1.0, 1e-3, 64, 100.0, 1, None, 0, 0, False))
    writer.close()
    return directory


def write_turns(directory: RunDirectory, *turns: Turn) -> None:
    lines = [json.dumps({"schema": 1, "job": "7_0", **asdict(turn)}) + "\n" for turn in turns]
    (directory.path / "allocations.jsonl").write_text("".join(lines))


def hours(directory: RunDirectory, study: Study) -> dict[str, Any]:
    return asdict(run_hours(directory, study.runs[0], study))


def test_a_run_without_restarts_loses_nothing(directory: RunDirectory, study: Study) -> None:
    write_turns(directory, Turn(at(0), at(420), 0, 4, "reached"))
    directory.update_status(state="done", started_utc=at(0), final=FINAL.model_dump())
    seen = hours(directory, study)
    assert seen["used"] == pytest.approx(2 * 420 / 3600)
    assert (seen["unit"], seen["planned"], seen["restarts"], seen["failed"]) == ("rank-hours", None, 0, 0)


def test_a_killed_turn_loses_its_start_and_the_steps_that_are_made_again(
    directory: RunDirectory, study: Study
) -> None:
    killed = Turn(at(0), at(270), 0, 1, "killed")  # one step kept, one and a half not
    write_turns(directory, killed, Turn(at(300), at(620), 1, 4, "reached"))
    directory.update_status(state="done", started_utc=at(300), final=FINAL.model_dump())
    seen = hours(directory, study)
    assert seen["restarts"] == pytest.approx(2 * (270 - 100) / 3600)
    assert seen["used"] - seen["restarts"] == pytest.approx(2 * 420 / 3600)  # as without a restart


def test_a_turn_that_no_driver_was_left_to_write_down_counts_until_its_job_ended(
    directory: RunDirectory, study: Study
) -> None:
    directory.update_status(state="running", started_utc=at(0), heartbeat_utc=at(230), step=1)
    assert read_turns(directory) == [Turn(at(0), at(230), 0, 2, "running")]
    directory.update_status(state="interrupted", ended_utc=at(250))
    assert read_turns(directory) == [Turn(at(0), at(250), 0, 0, "lost")]
    assert hours(directory, study)["failed"] == pytest.approx(2 * 250 / 3600)
    close_lost_turn(directory, until_step=1)
    close_lost_turn(directory, until_step=1)
    directory.update_status(state="running", started_utc=at(500), heartbeat_utc=at(530), ended_utc=None)
    assert [turn.outcome for turn in read_turns(directory)] == ["lost", "running"]
    assert hours(directory, study)["restarts"] == pytest.approx(2 * (250 - 100) / 3600)


def test_a_sign_of_life_in_the_second_in_which_the_job_ended_still_counts(directory: RunDirectory) -> None:
    directory.update_status(state="interrupted", started_utc=at(0), heartbeat_utc=at(7.9), ended_utc=at(7))
    (lost,) = read_turns(directory)
    assert lost.seconds == pytest.approx(7.9)


def test_all_that_a_failed_run_took_is_lost_once(directory: RunDirectory, study: Study) -> None:
    write_turns(directory, Turn(at(0), at(50), 0, 0, "killed"), Turn(at(60), at(110), 0, 0, "failed"))
    directory.update_status(state="failed", started_utc=at(60))
    seen = hours(directory, study)
    assert (seen["used"], seen["restarts"]) == (seen["failed"], 0)


def test_lines_of_other_programs_and_half_lines_are_passed_over(directory: RunDirectory) -> None:
    (directory.path / "allocations.jsonl").write_text('{"schema": 1, "code": "x"}\n{"schema": 1, "sta')
    assert read_turns(directory) == []


def test_a_turn_cannot_lose_less_than_nothing() -> None:
    assert spent_hours([(90.0, 100.0)], 2, failed=False).restarts == 0  # clocks of two machines


def test_hours_are_told_by_variant_and_in_all_in_summary_page_and_text(study: Study, tmp_path: Path) -> None:
    save_study(study, tmp_path)
    for index in range(2):
        directory = made(study, tmp_path, index)
        write_turns(directory, Turn(at(0), at(3600 + index), 0, 4, "reached"))
        directory.update_status(state="done", started_utc=at(0), final=FINAL.model_dump())
    (tmp_path / "slurm").mkdir()
    page = build_report(tmp_path)
    summary = json.loads((tmp_path / "summary.json").read_text())
    schema = json.loads((REPOSITORY / "analysis" / "schema" / "summary.schema.json").read_text())
    jsonschema.validate(summary, schema)
    assert [(row["variant"], round(row["used"], 2)) for row in summary["hours"]] == [
        ("zero3", 2.0),
        ("fixed", 2.0),
        (None, 4.0),
    ]
    assert 'id="hours"' in page.read_text() and 'href="#hours"' in page.read_text()
    assert "| all | 2 | rank-hours | – | 4.001 | 0 | 0 |" in (tmp_path / "report.md").read_text()


def test_a_study_that_has_not_run_has_used_nothing(study: Study, tmp_path: Path) -> None:
    assert [(row.runs, row.used) for row in study_hours(study, tmp_path)] == [(1, 0), (1, 0), (2, 0)]
