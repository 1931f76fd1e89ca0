"""Planted ordering bugs are found at the right pair of lines; their mended twins are clean; hangs are explained."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from harness.race.explore import Budget
from harness.race.investigate import Settings, investigate
from harness.race.launch import Ranks
from harness.race.replay import read_replay, replayed
from harness.system.errors import RunFailed
from tests.deepspeed.old_deepspeed import TOO_OLD, old_deepspeed
from tests.deepspeed.race.race_help import SCRIPTS, analyse, job_of

SOURCE = (SCRIPTS / "streams.py").read_text()
BUGS = re.findall(r"^def (\w+_bug)\(", SOURCE, re.MULTILINE)
RIGHT = re.findall(r"^def (\w+_right)\(", SOURCE, re.MULTILINE)


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ranks]:
    with Ranks(None, tmp_path_factory.mktemp("ranks")) as warm:
        yield warm


def marked_lines(program: str) -> list[int]:
    """The lines of the program that are marked `# 1st` and `# 2nd`."""
    body = re.search(rf"^def {program}\(.*?(?=^def |\Z)", SOURCE, re.MULTILINE | re.DOTALL)
    assert body is not None
    before = SOURCE[: body.start()].count("\n") + 1
    return [
        before + at
        for mark in ("# 1st", "# 2nd")
        for at, line in enumerate(body[0].splitlines())
        if mark in line
    ]


def test_there_are_at_least_twelve_of_each() -> None:
    assert len(BUGS) >= 12
    assert len(RIGHT) >= 12


@pytest.mark.parametrize("program", BUGS)
def test_a_planted_bug_is_found_at_its_pair_of_lines(ranks: Ranks, program: str) -> None:
    (race,) = analyse(ranks, "streams", program).races
    found = [access.site[0].line for access in (race.first, race.second)]
    expected = marked_lines(program)
    assert found == (expected if len(expected) == 2 else expected * 2)


@pytest.mark.parametrize("program", RIGHT)
def test_a_correctly_ordered_program_is_clean(ranks: Ranks, program: str) -> None:
    report = analyse(ranks, "streams", program)
    assert report.races == ()
    assert report.problems == ()


@pytest.mark.parametrize(
    "program",
    ["consumer_bug", "overwritten_bug", "reused_input_bug", "columns_bug", "freed_bug", "handed_back_bug"],
)
def test_a_race_gets_a_schedule_that_changes_values_and_a_replay_that_repeats_it(
    ranks: Ranks, tmp_path: Path, program: str
) -> None:
    report = investigate(job_of("streams", program), ranks, tmp_path, Settings(Budget(seeds=1)))
    (race,) = report.races
    assert race.effect is not None
    assert race.effect.found
    assert race.effect.decisions == 1
    assert race.effect.replay is not None
    replay, job = read_replay(Path(race.effect.replay))
    assert replayed(replay, job, ranks.run).same
    assert replay.expected.digests != replay.reference.digests
    assert (tmp_path / f"race-{race.id}.svg").exists()


def test_ranks_that_issue_different_collectives_are_told_which(ranks: Ranks) -> None:
    (problem,) = analyse(ranks, "stuck", "mismatched", world=2).problems
    assert "rank 0 issued all_reduce of 32 bytes at" in problem
    assert "rank 1 broadcast of 32 bytes" in problem


def test_a_rank_that_is_left_alone_is_named(ranks: Ranks) -> None:
    (problem,) = analyse(ranks, "stuck", "left_alone", world=2).problems
    assert "rank 0 issued all_reduce" in problem
    assert "rank 1 never did" in problem


def test_an_op_that_cannot_be_deferred_is_named(ranks: Ranks) -> None:
    (problem,) = analyse(ranks, "stuck", "undeferrable").problems
    assert "cannot be deferred" in problem or "not known" in problem


@pytest.mark.parametrize("reaped", [False, True])
def test_a_process_that_starts_no_ranks_any_more_says_so(reaped: bool, tmp_path: Path) -> None:
    with Ranks(None, tmp_path) as dead:
        dead.child.process.kill()
        if reaped:
            dead.child.process.wait()
        with pytest.raises(RunFailed, match=r"the process that starts ranks ended with code -9"):
            dead.run(job_of("stuck", "broken"))


def test_a_deepspeed_that_this_torch_cannot_import_is_told_in_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(old_deepspeed(tmp_path)))
    with Ranks(None, tmp_path / "scratch") as broken, pytest.raises(RunFailed) as caught:
        broken.run(job_of("stuck", "broken"))
    assert str(caught.value) == f"the process that starts ranks ended with code 1: {TOO_OLD}"


def test_ranks_that_do_nothing_any_more_are_ended_and_the_limit_is_named(ranks: Ranks) -> None:
    job = replace(job_of("stuck", "asleep"), analyse=False)
    ranks.idle = -13.0  # of the 30 s of patience, 4 are left
    problem = ranks.run(job).problem
    ranks.idle = 0.0
    assert problem is not None
    assert problem.startswith("no rank has used the processor for 4 s: rank 0 at ")


def test_a_script_that_fails_says_how(ranks: Ranks) -> None:
    assert analyse(ranks, "stuck", "broken").problems == (
        "rank 0 failed: KeyError: 'no such layer' (in tests/deepspeed/race/scripts/stuck.py:41, broken)",
    )
