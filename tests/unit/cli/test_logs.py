"""`hpz logs` finds a run by a part of its id and prints all its starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.record import RunDirectory
from tests.unit.cli.test_cli import hpz


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Two runs; the first was started twice, with two ranks."""
    for name in ("llama2-toy_stock_ab12", "llama2-toy_fixed_cd34"):
        directory = RunDirectory(tmp_path / "results" / "study" / "runs" / name)
        directory.logs.mkdir(parents=True)
        directory.update_status(state="failed")
        (directory.path / "run.json").write_text("{}")
    first = RunDirectory(tmp_path / "results" / "study" / "runs" / "llama2-toy_stock_ab12")
    for start in ("first", "second"):
        first.set_logs_aside()
        for rank in (0, 1):
            (first.logs / f"rank-{rank}.txt").write_text(f"{start} start of rank {rank}\n")
    return tmp_path


def test_a_part_of_the_id_is_enough_and_all_starts_are_there(results: Path) -> None:
    said = hpz("logs", "ab12", cwd=results).stdout
    lines = ["== start 1 of 2", "-- rank 0", "first start of rank 0", "-- rank 1", "first start of rank 1"]
    lines += ["== start 2 of 2", "-- rank 0", "second start of rank 0", "-- rank 1", "second start of rank 1"]
    assert said.splitlines() == lines


def test_one_rank_alone_and_following_a_run_that_ended(results: Path) -> None:
    said = hpz("logs", "ab12", "--rank", "1", "--follow", cwd=results).stdout
    assert said.splitlines() == [
        "== start 1 of 2",
        "first start of rank 1",
        "== start 2 of 2",
        "second start of rank 1",
    ]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["llama2-toy"], "'llama2-toy' fits 2 runs"),
        (["llama2-toy_fixd_cd34"], "no run of results/ is called 'llama2-toy_fixd_cd34'; did you mean"),
    ],
)
def test_a_name_that_fits_none_or_several_is_one_sentence(
    results: Path, words: list[str], sentence: str
) -> None:
    done = hpz("logs", *words, cwd=results)
    assert done.returncode == 2 and sentence in done.stderr and done.stderr.count("\n") == 1


def test_a_run_without_output_says_its_state(results: Path) -> None:
    assert "its state is failed" in hpz("logs", "cd34", cwd=results).stdout
