"""What ranks tell each other of their times, through a store in one process."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch.distributed as dist

from harness.record.ranks import read_windows
from harness.workload.rank import Rank
from harness.workload.rank_times import RankTimes, window_steps
from tests.unit.record.test_record import STEP


def ranks(file: Path, steps: int) -> list[RankTimes]:
    store = dist.HashStore()
    return [RankTimes(file, Rank(rank, 2), store, steps) for rank in range(2)]


def take(times: RankTimes, steps: range, seconds: float, waited: float) -> None:
    for step in steps:
        times.add(replace(STEP, step=step, step_seconds=seconds, exposed_comm_seconds=waited))


def test_a_window_is_written_once_all_ranks_have_spoken_of_it(tmp_path: Path) -> None:
    first, second = ranks(tmp_path / "ranks.jsonl", 100)
    take(first, range(5), 0.3, 0.2)
    assert not (tmp_path / "ranks.jsonl").exists()
    take(second, range(5), 0.3, 0.0)
    take(first, range(5, 10), 0.3, 0.2)
    (window,) = read_windows(tmp_path / "ranks.jsonl")
    assert (window.from_step, window.until_step) == (0, 5)
    assert window.step_seconds == (0.3, 0.3) and window.own_seconds == (0.1, 0.3)


def test_a_rank_that_is_ahead_is_not_mixed_with_one_behind(tmp_path: Path) -> None:
    first, second = ranks(tmp_path / "ranks.jsonl", 20)  # windows of one step
    take(first, range(3), 0.3, 0.2)
    take(second, range(9), 0.3, 0.0)  # further than any rank can be
    first.write()
    assert read_windows(tmp_path / "ranks.jsonl") == []
    take(first, range(3, 9), 0.3, 0.2)
    assert [window.until_step for window in read_windows(tmp_path / "ranks.jsonl")] == [6, 7, 8, 9]


def test_the_last_window_may_be_shorter(tmp_path: Path) -> None:
    first, second = ranks(tmp_path / "ranks.jsonl", 47)
    for one in (second, first):
        take(one, range(47), 0.3, 0.1)
    assert read_windows(tmp_path / "ranks.jsonl")[-1].until_step == 47


def test_a_gpus_time_is_its_own_clocks(tmp_path: Path) -> None:
    first, second = ranks(tmp_path / "ranks.jsonl", 1)
    for one in (second, first):
        one.add(replace(STEP, step_seconds=0.1, device_seconds=0.4, exposed_comm_seconds=0.1))
    (window,) = read_windows(tmp_path / "ranks.jsonl")
    assert window.step_seconds == (0.4, 0.4) and window.own_seconds == pytest.approx((0.3, 0.3))


@pytest.mark.parametrize(("steps", "length"), [(6, 1), (40, 2), (100, 5), (1000, 10), (50_000, 100)])
def test_windows_suit_the_length_of_a_run(steps: int, length: int) -> None:
    assert window_steps(steps) == length
