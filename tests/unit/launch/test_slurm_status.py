"""What a user is told of a study on SLURM, and what of it is written down, whatever the scheduler has forgotten."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from harness.cli.slurm import status_table
from harness.launch.slurm import scheduler
from harness.launch.slurm.clients import Job
from harness.launch.slurm.scheduler import Scheduler
from harness.launch.slurm.status import study_rows
from harness.launch.slurm.submit import queued_groups
from harness.record import RunDirectory, Status
from harness.study import Study, load_study
from harness.system.utc import utc_now
from tests.conftest import StudyFile
from tests.submitted import submitted
from tests.unit.launch.test_slurm_scheduler import FINAL, LONG_AGO, NOW, CountingClients
from tests.unit.record.test_ranks import windows


@pytest.fixture(autouse=True)
def queries_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheduler, "QUERY_SECONDS", 0.0)


@pytest.fixture
def study(study_file: StudyFile) -> Study:
    return load_study(study_file(matrix={"model": "llama2-toy", "variant": "zero3", "shape": "2x2"}))


def run_directory(study: Study, results: Path) -> RunDirectory:
    return RunDirectory(results / "runs" / study.runs[0].run_id)


def look(study: Study, results: Path, clients: CountingClients) -> str:
    """The state shown for the study's only run."""
    ((row,), _) = study_rows(study, results, Scheduler(clients, results / "cache.json"))
    return row.state


def test_accounting_is_asked_before_a_forgotten_run_is_given_up(study: Study, tmp_path: Path) -> None:
    submitted(study, tmp_path)
    directory = run_directory(study, tmp_path)
    directory.update_status(state="running", heartbeat_utc=LONG_AGO)
    clients = CountingClients(jobs=(), accounting=True)
    assert look(study, tmp_path, clients) == "running" and directory.status().state == "running"
    assert look(study, tmp_path, clients) == "timed-out" and directory.status().state == "timed-out"
    assert clients.asked == ["squeue", "sacct"]


def test_without_accounting_a_forgotten_run_is_interrupted(study: Study, tmp_path: Path) -> None:
    submitted(study, tmp_path)
    clients = CountingClients(jobs=())
    assert [look(study, tmp_path, clients) for _ in range(2)] == ["queued", "interrupted"]
    assert run_directory(study, tmp_path).status().state == "interrupted"


def test_a_run_with_its_final_record_is_done_though_its_job_died(study: Study, tmp_path: Path) -> None:
    submitted(study, tmp_path)
    directory = run_directory(study, tmp_path)
    directory.update_status(state="running", heartbeat_utc=LONG_AGO, final=FINAL.model_dump())
    assert look(study, tmp_path, CountingClients(jobs=(Job("7", "0", "NODE_FAIL"),))) == "done"
    assert directory.status().state == "done"


def test_a_script_that_was_sent_again_by_hand_is_followed_under_its_new_id(
    study: Study, tmp_path: Path
) -> None:
    (sent,) = submitted(study, tmp_path)
    first = Job("7", "0", "FAILED", mark=sent.mark)
    repeat = Job("12", "0", "RUNNING", mark=sent.mark)
    run_directory(study, tmp_path).update_status(state="running", heartbeat_utc=NOW)
    view = Scheduler(CountingClients(jobs=(first, repeat)), tmp_path / "cache.json")
    ((row,), _) = study_rows(study, tmp_path, view)
    assert (row.state, row.job) == ("running", "12_0")
    assert queued_groups(tmp_path / "slurm", view) == {sent.tasks[0].group}


def test_an_answer_older_than_the_ranks_overrules_nothing(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The script was sent again, and started, after squeue was asked."""
    submitted(study, tmp_path)
    directory = run_directory(study, tmp_path)
    view = Scheduler(CountingClients(jobs=(Job("7", "0", "COMPLETED"),)), tmp_path / "cache.json")
    view.snapshot()
    directory.update_status(state="running", heartbeat_utc=utc_now())
    monkeypatch.setattr(scheduler, "QUERY_SECONDS", 10.0)
    ((row,), _) = study_rows(study, tmp_path, view)
    assert (row.state, directory.status().state) == ("running", "running")


def test_runs_that_have_ended_ask_nobody(study: Study, tmp_path: Path) -> None:
    submitted(study, tmp_path)
    run_directory(study, tmp_path).update_status(**Status(state="failed", reason="x").model_dump())
    clients = CountingClients(jobs=())
    assert look(study, tmp_path, clients) == "failed" and clients.asked == []


def test_a_running_run_shows_the_rank_that_the_others_wait_for(study: Study, tmp_path: Path) -> None:
    submitted(study, tmp_path)
    directory = run_directory(study, tmp_path)
    directory.update_status(state="running", heartbeat_utc=utc_now())
    directory.ranks_file.write_text("".join(one.line() for one in windows([0.1, 0.1, 0.1, 0.2])))
    ((row,), _) = study_rows(study, tmp_path, Scheduler(CountingClients(jobs=()), tmp_path / "cache.json"))
    assert row.state == "running" and row.slow.startswith("n1: rank 3 +")
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(status_table([row], None))
    assert f" {row.slow} " in console.export_text()
