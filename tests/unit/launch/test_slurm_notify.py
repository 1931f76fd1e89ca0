"""What a user's command is told, and that nothing it does is of any harm."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.launch.slurm import notify
from harness.launch.slurm.notify import Event, Notifier, run_event, study_ended_here
from harness.record import RunDirectory
from harness.study import load_study
from tests.conftest import StudyFile
from tests.submitted import submitted

DONE = run_event(Path("results/tiny"), "tiny", "a-run", "done", None)


def told(command: str, *events: Event) -> list[str]:
    """Tell the command of these; what it has to complain of."""
    complaints: list[str] = []
    notifier = Notifier(command, complaints.append)
    for event in events:
        notifier.tell(event)
    notifier.wait()
    return complaints


def test_the_command_gets_a_sentence_and_a_line_of_json_in_order(tmp_path: Path) -> None:
    failed = run_event(tmp_path, "tiny", "b-run", "failed", 'rank 2: "$(touch x)"')
    assert told(f'echo "$HPZ_TEXT" >> {tmp_path}/text; cat >> {tmp_path}/json', DONE, failed) == []
    assert (tmp_path / "text").read_text().splitlines() == [
        "tiny: a-run is done",
        'tiny: b-run is failed: rank 2: "$(touch x)"',
    ]
    first, second = map(json.loads, (tmp_path / "json").read_text().splitlines())
    assert (first["event"], first["run_id"], first["state"]) == ("run-done", "a-run", "done")
    assert (second["event"], second["study"], second["results"]) == ("run-ended", "tiny", str(tmp_path))


def test_a_failing_command_is_a_complaint_and_no_more() -> None:
    assert told("echo no such channel >&2; exit 3", DONE) == [
        "hpz: --notify ended with code 3: no such channel"
    ]
    assert told("exec 0<&-; exit 0", DONE) == []  # does not read


def test_a_command_that_hangs_is_ended_with_what_it_started_and_not_asked_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(notify, "NOTIFY_SECONDS", 0.2)
    (complaint,) = told("sleep 600 & wait", DONE, DONE, DONE)
    assert complaint == "hpz: --notify took more than 0.2 s, and is told nothing more"


def test_without_a_command_nothing_is_run() -> None:
    notifier = Notifier(None)
    notifier.tell(DONE)
    notifier.wait()


def test_only_the_last_task_of_a_study_tells_of_its_end(study_file: StudyFile, tmp_path: Path) -> None:
    study = load_study(study_file())
    submitted(study, tmp_path)
    first, second = (RunDirectory(tmp_path / "runs" / run.run_id) for run in study.runs)
    first.update_status(state="done")
    assert study_ended_here(tmp_path, "tiny") is None
    second.update_status(state="failed")
    event = study_ended_here(tmp_path, "tiny")
    assert event is not None and event.text == "tiny has ended: 1 done, 1 failed"
    assert study_ended_here(tmp_path, "tiny") is None  # a task beside it has told already
