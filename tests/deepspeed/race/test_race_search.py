"""Searches say what they have searched: classes to the last one, PCT with its bound, and what no order explains."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.race.explore import Budget
from harness.race.investigate import Settings, investigate
from harness.race.launch import Ranks
from harness.race.replay import read_replay, replayed
from harness.race.report import Report
from harness.race.searched import Mode
from harness.race.text import text
from tests.deepspeed.race.race_help import job_of


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ranks]:
    with Ranks(None, tmp_path_factory.mktemp("ranks")) as warm:
        yield warm


def searched(ranks: Ranks, folder: Path, program: str, mode: Mode, schedules: int = 64) -> Report:
    budget = Budget(mode=mode, schedules=schedules)
    return investigate(job_of("searched", program), ranks, folder, Settings(budget))


def changes(report: Report) -> bool:
    return any(race.effect and (race.effect.found or race.effect.also) for race in report.races)


def test_named_policies_and_single_swaps_miss_a_fault_of_two_orders(ranks: Ranks, tmp_path: Path) -> None:
    report = searched(ranks, tmp_path, "two_orders_together", "named")
    assert len(report.races) == 2
    assert not changes(report)


def test_all_classes_are_run_and_the_one_that_changes_values_is_shrunk_and_replayed(
    ranks: Ranks, tmp_path: Path
) -> None:
    report = searched(ranks, tmp_path, "two_orders_together", "exhaustive")
    assert "all 4 classes of this step were run (2 unordered pairs of ops); 1 change values" in list(
        text(report)
    )
    effect = report.races[0].effect
    assert effect is not None
    assert effect.decisions == 2
    assert effect.replay is not None
    replay, job = read_replay(Path(effect.replay))
    assert replayed(replay, job, ranks.run).same
    assert report.search is not None
    assert report.search.seconds_to_failure is not None


def test_each_class_gives_its_own_values(ranks: Ranks, tmp_path: Path) -> None:
    report = searched(ranks, tmp_path, "three_writes_and_a_read", "exhaustive")
    assert report.search is not None
    assert report.search.classes is not None
    assert (report.search.classes.total, report.search.classes.changing) == (4, 3)
    assert report.search.classes.missed == 0


def test_classes_that_were_not_run_are_counted(ranks: Ranks, tmp_path: Path) -> None:
    report = searched(ranks, tmp_path, "two_orders_together", "exhaustive", schedules=2)
    assert "2 of 4 classes were run (2 unordered pairs of ops), 2 are left; 0 change values" in list(
        text(report)
    )


def test_random_priorities_meet_it_and_say_how_likely_that_was(ranks: Ranks, tmp_path: Path) -> None:
    report = searched(ranks, tmp_path, "two_orders_together", "pct", schedules=40)
    assert changes(report)
    assert report.search is not None
    assert report.search.bound is not None
    (line,) = (line for line in text(report) if line.startswith("a fault of depth 2 among"))
    assert line.endswith("in the 40 schedules that ran (PCT)")


def test_a_global_number_that_differs_each_time_is_no_effect_and_hides_none(
    ranks: Ranks, tmp_path: Path
) -> None:
    report = searched(ranks, tmp_path, "clocked", "named")
    assert report.search is not None
    assert not report.search.numbers
    assert changes(report)


def test_the_op_where_two_runs_of_one_schedule_part_is_named(ranks: Ranks, tmp_path: Path) -> None:
    report = searched(ranks, tmp_path, "unseeded", "named")
    (line,) = (line for line in text(report) if line.startswith("NOT REPEATABLE"))
    assert "add_ at tests/deepspeed/race/scripts/searched.py:" in line
    assert not changes(report)
