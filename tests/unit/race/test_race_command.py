"""`hpz race` before anything runs, and how it ends: what is given in a wrong way is one sentence."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer

from harness.cli.race import Launch, Shown, launched_by, script_program, show
from harness.race.investigate import write_report
from harness.race.launchers import Launched
from harness.race.report import Effect
from harness.system.errors import HarnessError
from tests.unit.race.test_race_words import race, report


def test_an_unknown_launcher_is_named_with_those_that_are_known() -> None:
    with pytest.raises(HarnessError, match=r"foo: not a launcher that is known here; use one of deepspeed, "):
        launched_by(None, None, Path("foo"), ["--num_gpus", "2", "argv.py"])


def test_a_script_without_its_option_is_told_so(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.touch()
    with pytest.raises(HarnessError, match=r"give a script as hpz race --script .*train.py -- --lr 1"):
        launched_by(None, None, script, ["--lr", "1"])


@pytest.mark.parametrize("content", [b"\x7fELF\0\0", b"\xff\xfe", b"x = 1\0"])
def test_what_is_no_python_is_refused_in_one_sentence(content: bytes, tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_bytes(content)
    with pytest.raises(HarnessError, match=r"--script .*train.py: is no Python source"):
        script_program(Launched((), script=script), Launch())


def test_a_race_is_an_error_where_that_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    found = report(race("race"))
    show(found, Path("results"), Shown())
    show(report(), Path("results"), Shown(fail_on_race=True))
    with pytest.raises(typer.Exit) as ended:
        show(found, Path("results"), Shown(fail_on_race=True))
    assert ended.value.exit_code == 1


def test_a_new_report_takes_the_files_of_the_former_with_it_and_no_others(tmp_path: Path) -> None:
    effect = Effect(found=True, schedules=1, replay=str(tmp_path / "replay-a.json"))
    with_effect = race("race").model_copy(update={"effect": effect})
    for name in ("replay-a.json", "race-a.svg", "replay-mine.json"):
        (tmp_path / name).touch()
    write_report(tmp_path, report(with_effect))
    assert (tmp_path / "replay-a.json").exists()
    write_report(tmp_path, report())
    assert {file.name for file in tmp_path.iterdir()} == {"races.json", "replay-mine.json"}


def test_what_stands_in_the_place_of_a_report_and_is_none_is_written_over(tmp_path: Path) -> None:
    (tmp_path / "races.json").write_text("[1, ")
    write_report(tmp_path, report())
    assert '"t.py"' in (tmp_path / "races.json").read_text()
