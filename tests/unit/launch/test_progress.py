"""What `hpz run` shows while it runs: rows on a terminal, one line a run elsewhere."""

from __future__ import annotations

from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from harness.launch.launcher import Progress
from harness.launch.progress import Display, PlainLines, last_step
from harness.record import RunDirectory, Status
from harness.study import Study
from tests.synthetic import STUDY, Curve, write_run

pytestmark = pytest.mark.usefixtures("made_up_patches")

RUNNING = Status(state="running")
FAILED = Status(state="failed", reason="rank 2 ended with code 1: no luck")


def shown(what: object) -> list[list[str]]:
    """What a terminal shows, as words of lines."""
    console = Console(width=160, record=True, file=StringIO())
    console.print(what)
    return [line.split() for line in console.export_text().splitlines()]


def test_a_run_is_a_row_with_step_rate_loss_and_state_until_it_is_done(tmp_path: Path) -> None:
    study = Study.model_validate(STUDY)
    run = study.runs[0]
    write_run(tmp_path, run, Curve([2.5, 2.25]), state="running")
    display = Display(study, tmp_path)
    display.on(Progress("started", run, RUNNING))
    _, head, row = shown(display)
    assert head == ["run", "step", "steps/s", "loss", "state"]
    assert row == [run.run_id, "2/12", "–", "2.2500", "running"]
    display.on(Progress("finished", run, Status(state="done")))
    assert [run.run_id] not in [line[:1] for line in shown(display)]


def test_a_run_that_did_not_end_well_stays_and_is_counted(tmp_path: Path) -> None:
    study = Study.model_validate(STUDY)
    display = Display(study, tmp_path)
    for run in study.runs[:2]:
        display.on(Progress("started", run, RUNNING))
    display.on(Progress("finished", study.runs[0], FAILED))
    bar, _, *rows = shown(display)
    assert bar[:2] == ["1", "failed"] and f"1/{len(study.runs)}" in bar
    assert [row[-1] for row in rows] == ["failed", "running"]


def test_the_rate_is_that_of_the_last_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = Study.model_validate(STUDY)
    display = Display(study, tmp_path)
    display.on(Progress("started", study.runs[0], RUNNING))
    clock = iter([0.0, 2.0, 20.0])
    monkeypatch.setattr("harness.launch.progress.time.monotonic", lambda: next(clock))
    assert [display._rate(study.runs[0].run_id, step) for step in (0, 6, 6)] == ["–", "3.0", "–"]


def test_a_loss_that_is_no_number_and_a_run_without_steps_are_told(tmp_path: Path) -> None:
    run = Study.model_validate(STUDY).runs[0]
    assert last_step(RunDirectory(tmp_path)) == (0, "–")
    assert last_step(write_run(tmp_path, run, Curve([2.0, float("nan")]))) == (2, "not finite")


def test_without_a_terminal_each_run_that_ends_is_a_line_with_its_reason() -> None:
    study = Study.model_validate(STUDY)
    console = Console(width=60, record=True, file=StringIO())
    lines = PlainLines(2, console)
    lines.on(Progress("started", study.runs[0], RUNNING))
    lines.on(Progress("skipped", study.runs[0], Status(state="done")))
    lines.on(Progress("finished", study.runs[1], FAILED))
    first, second = (line.split() for line in console.export_text().splitlines())
    assert first[0] == "[1/2]" and first[3:] == [study.runs[0].run_id, "done", "before"]
    assert " ".join(second[4:]) == "failed: rank 2 ended with code 1: no luck"
