"""Two studies beside each other: what became better, worse or other, and nothing else."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from analysis.judge.summary import load_summary
from analysis.page.compare import compare_summaries, comparison_table
from analysis.page.report import build_report
from harness.study import Run
from harness.system.errors import HarnessError
from tests.synthetic import Curve, as_known, healthy, toy_model, write_study

pytestmark = pytest.mark.usefixtures("made_up_patches")


def mended(run: Run) -> Curve:
    """As before, but unordered was mended and event costs more."""
    if run.variant == "unordered":
        return Curve(healthy(run), secondary_gathers=30)
    return (
        Curve(healthy(run), secondary_gathers=30, host_syncs=9) if run.variant == "event" else as_known(run)
    )


@pytest.fixture
def before_and_after(tmp_path: Path) -> tuple[Path, Path]:
    write_study(tmp_path / "before")
    write_study(tmp_path / "after", mended)
    build_report(tmp_path / "before")
    return tmp_path / "before", tmp_path / "after"


def changes_of(rows: list[dict[str, Any]]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for row in rows:
        found.setdefault(row["change"], set()).add(row["variant"])
    return found


def test_changes_are_found_and_named(before_and_after: tuple[Path, Path]) -> None:
    before, after = before_and_after
    page = build_report(after, against=before).read_text()
    rows = compare_summaries(load_summary(after), load_summary(before))
    assert changes_of(rows) == {
        "better": {"unordered"},
        "other": {"event"},
        "same": {"stock", "fixed", "unordered"},
    }
    assert "drifted → exact" in page and 'id="against"' in page


def test_worse_comes_first(before_and_after: tuple[Path, Path]) -> None:
    before, after = before_and_after
    build_report(after)
    rows = compare_summaries(load_summary(before), load_summary(after))
    assert (rows[0]["change"], rows[0]["variant"]) == ("worse", "unordered")


def test_the_terminal_shows_changes_only(before_and_after: tuple[Path, Path]) -> None:
    before, after = before_and_after
    build_report(after)
    console = Console(file=io.StringIO(), width=200)
    rows = compare_summaries(load_summary(after), load_summary(before))
    console.print(comparison_table(rows, "after", "before"))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "3 of 8 pairs changed" in text and "stock" not in text


def test_studies_that_share_nothing_are_refused(tmp_path: Path, before_and_after: tuple[Path, Path]) -> None:
    matrix = {"model": "other", "variant": "fixed", "shape": "2x2-hpz2"}
    write_study(tmp_path / "c", matrix=matrix, models={"other": toy_model()})
    with pytest.raises(HarnessError, match="share no pair"):
        build_report(tmp_path / "c", against=before_and_after[0])


def test_a_folder_without_a_summary_is_refused(tmp_path: Path, before_and_after: tuple[Path, Path]) -> None:
    with pytest.raises(HarnessError, match=r"hpz report .*nothing"):
        build_report(before_and_after[1], against=tmp_path / "nothing")
