"""The table of releases that were tried: one line an environment, replaced when it is tried again."""

from __future__ import annotations

from pathlib import Path

from tests.matrix import outcomes, rows_in, with_row

OLD = ("2.4.1", "0.14.5", "4.46.3", "3.11.7", "2026-01-01", "3", "0", "0")
NEW = ("2.13.0", "0.19.8", "5.24.0", "3.11.7", "2026-01-01", "9", "1", "1: `test_a`")


def test_lines_stand_in_the_order_of_releases_and_are_replaced() -> None:
    text = with_row(with_row("", NEW), OLD)
    assert rows_in(text) == [OLD, NEW]
    again = (*OLD[:4], "2026-02-02", *OLD[5:])
    assert rows_in(with_row(text, again)) == [again, NEW]
    assert with_row(text, OLD) == text


def test_outcomes_are_counted_and_failures_named(tmp_path: Path) -> None:
    cases = {
        "test_a": "<failure/>",
        "test_b[x|y]": "<error/>",
        "test_c": "<skipped/>",
        "test_d": "",
        "test_e": "",
    }
    lines = [f'<testcase name="{name}">{outcome}</testcase>' for name, outcome in cases.items()]
    (tmp_path / "report.xml").write_text(f"<testsuites><testsuite>{''.join(lines)}</testsuite></testsuites>")
    assert outcomes(tmp_path / "report.xml") == ("2", "1", "2: `test_a`, `test_b[x/y]`")
