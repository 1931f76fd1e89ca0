"""What a report found, as values of runs and plain tables."""

from __future__ import annotations

from pathlib import Path

from analysis.dashboard.found import counts_of, found_of_runs, tables_of, words_of
from analysis.judge.summary import load_summary


def test_a_run_has_its_verdict_and_a_baseline_is_called_so(reported: Path) -> None:
    summary = load_summary(reported)
    found = found_of_runs(summary)
    for pair in summary["pairs"]:
        assert found[pair["run_id"]]["verdict"] == pair["verdict"]
    broken = next(pair for pair in summary["pairs"] if pair["verdict"] == "diverged")
    assert found[broken["run_id"]]["first_bad_step"] == broken["first_bad_step"]
    assert "baseline" in {one["verdict"] for one in found.values()}


def test_a_value_that_is_not_there_is_left_out(reported: Path) -> None:
    assert all(
        value is not None for one in found_of_runs(load_summary(reported)).values() for value in one.values()
    )


def test_tables_hold_every_pair_and_claim_with_numbers_as_numbers(reported: Path) -> None:
    summary = load_summary(reported)
    tables = {table.name: table for table in tables_of(summary)}
    assert len(tables["verdicts"].rows) == len(summary["pairs"])
    assert len(tables["claims"].rows) == len(summary["claims"])
    place = tables["verdicts"].columns.index("first_bad_step")
    assert {type(row[place]) for row in tables["verdicts"].rows} == {int, type(None)}


def test_counts_add_up(reported: Path) -> None:
    summary = load_summary(reported)
    counts = counts_of(summary)
    assert sum(count for name, count in counts.items() if name.startswith("pairs.")) == len(summary["pairs"])


def test_the_answer_in_words_says_what_is_not_safe(reported: Path) -> None:
    assert "**Not safe: stock and unordered." in words_of(load_summary(reported))
