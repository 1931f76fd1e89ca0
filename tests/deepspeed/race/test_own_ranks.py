"""Scripts that start their ranks themselves by `torch.multiprocessing` are followed, each rank as one of ours."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.race.investigate import analysed
from harness.race.job import Job, Program
from harness.race.launch import Ranks
from harness.race.report import Report
from harness.system.errors import HarnessError
from tests.deepspeed.race.race_help import SCRIPTS


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ranks]:
    with Ranks(None, tmp_path_factory.mktemp("ranks"), map_cuda=True) as warm:
        yield warm


def report(ranks: Ranks, folder: Path, how: str, number: int = 2) -> Report:
    script = str(SCRIPTS / "own_ranks.py")
    job = Job(Program(number, script=script, arguments=(how, str(folder)), map_cuda=True))
    return analysed(job, ranks.run(job, 240))


@pytest.mark.parametrize("how", ["spawn", "process"])
def test_ranks_that_a_script_starts_are_analysed_as_ours(ranks: Ranks, tmp_path: Path, how: str) -> None:
    found = report(ranks, tmp_path, how)
    assert (found.steps, found.problems) == (1, ())
    assert {(race.kind, tuple(race.ranks)) for race in found.races} == {("race", (0, 1))}
    assert {name for race in found.races for name in race.names} == {"summed"}


def test_ranks_that_are_started_again_meet_again_after_all_have_ended(ranks: Ranks, tmp_path: Path) -> None:
    found = report(ranks, tmp_path, "twice")
    assert (found.races, found.problems) == ((), ())


def test_a_process_that_is_no_rank_is_started_as_ever(ranks: Ranks, tmp_path: Path) -> None:
    found = report(ranks, tmp_path, "helper")
    assert (found.races, found.problems) == ((), ())


def test_another_number_of_ranks_is_said(ranks: Ranks, tmp_path: Path) -> None:
    with pytest.raises(
        HarnessError, match=r"own_ranks.py:\d+ .*: starts 3 ranks, and --ranks is 2; give --ranks 3"
    ):
        report(ranks, tmp_path, "3")
    with pytest.raises(HarnessError, match=r"nothing was analysed: it starts 1 of 2 ranks; give --ranks 1"):
        report(ranks, tmp_path, "1")
