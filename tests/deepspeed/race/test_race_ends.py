"""What a program computed counts although nothing of it is left at its end; and no end goes unseen."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.race.explore import Budget
from harness.race.investigate import Settings, investigate
from harness.race.launch import Ranks
from harness.race.replay import read_replay, replayed
from harness.race.report import Effect, Report
from harness.race.text import effect_text, text
from harness.system.errors import HarnessError
from tests.deepspeed.race.race_help import analyse, job_of


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ranks]:
    with Ranks(None, tmp_path_factory.mktemp("ranks")) as warm:
        yield warm


def searched(ranks: Ranks, folder: Path, program: str) -> tuple[Report, Effect]:
    report = investigate(job_of("ends", program), ranks, folder, Settings(Budget(seeds=0)))
    effect = report.races[0].effect
    assert effect is not None
    return report, effect


def test_a_model_that_goes_with_its_function_is_compared_after_its_last_step(
    ranks: Ranks, tmp_path: Path
) -> None:
    report, effect = searched(ranks, tmp_path, "trained")
    assert report.search is not None
    assert report.search.covered == "step"
    assert effect.changed == "the final values of rank 0 change"
    assert effect.replay is not None
    replay, job = read_replay(Path(effect.replay))
    assert job.program.steps == 2
    assert replayed(replay, job, ranks.run).same


def test_a_number_that_the_host_reads_otherwise_is_an_effect_with_a_replay(
    ranks: Ranks, tmp_path: Path
) -> None:
    report, effect = searched(ranks, tmp_path, "printed")
    assert report.search is not None
    assert report.search.covered == "reads"
    assert effect.found
    assert effect.changed is not None
    assert effect.changed.startswith("what rank 0 reads at tests/deepspeed/race/scripts/ends.py:")
    assert effect.changed.endswith(" printed is nan instead of 3.5999999")
    assert effect.replay is not None
    replay, job = read_replay(Path(effect.replay))
    assert replayed(replay, job, ranks.run).same


def test_where_there_is_nothing_to_compare_the_report_says_so_and_the_way_out(
    ranks: Ranks, tmp_path: Path
) -> None:
    report, effect = searched(ranks, tmp_path, "silent")
    (line,) = (line for line in text(report) if line.startswith("VALUES NOT COMPARED"))
    assert "--steps N" in line
    assert effect_text(effect).startswith("effect: no failure in ")


def test_a_script_that_ends_its_process_at_once_is_analysed_like_any_other(ranks: Ranks) -> None:
    (race,) = analyse(ranks, "ends", "exits").races
    assert race.first.site[0].function == "raced"


def test_a_stream_that_an_object_holds_is_named_by_its_class(ranks: Ranks) -> None:
    (race,) = analyse(ranks, "ends", "silent").races
    assert (race.first.stream, race.second.stream) == ("Loader.stream", "compute")


def test_a_rank_that_leaves_no_record_is_no_clean_one(ranks: Ranks) -> None:
    with pytest.raises(HarnessError, match=r"ends.py: rank 0 ended with code 0 and left no record"):
        analyse(ranks, "ends", "replaced")


def test_a_program_that_fails_in_another_order_is_said_to_fail(ranks: Ranks, tmp_path: Path) -> None:
    _, effect = searched(ranks, tmp_path, "looked_up")
    assert "the program fails (rank 0 failed: " in effect_text(effect)


def test_what_is_read_by_who_looks_whether_it_is_there_is_not_compared(ranks: Ranks, tmp_path: Path) -> None:
    report, _ = searched(ranks, tmp_path, "polled")
    assert report.search is not None
    assert (report.search.repeatable, report.search.covered) == (True, "nothing")
