"""Markdown and LaTeX say what the page says, and nothing in a name becomes markup."""

from __future__ import annotations

from pathlib import Path

import pytest

from analysis.page.report import build_report
from tests.synthetic import STUDY, as_known, toy_model, write_study

pytestmark = pytest.mark.usefixtures("made_up_patches")
NASTY = "toy|<b>_50%&"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    matrix = [{**block, "model": NASTY} for block in STUDY["matrix"]]
    write_study(
        tmp_path,
        lambda run: None if (run.variant, run.policy) == ("event", "eager") else as_known(run),
        matrix=matrix,
        models={NASTY: toy_model()},
    )
    build_report(tmp_path)
    return tmp_path


def test_markdown_answers_and_lists_what_was_not_run(folder: Path) -> None:
    text = (folder / "report.md").read_text()
    assert "**Not safe: stock and unordered. Safe in this study: fixed and event.**" in text
    assert "| stock | = exact | ✕ diverged at 4 |" in text
    assert "eager_s1" in text and ": not started" in text


def test_markdown_tables_keep_their_columns(folder: Path) -> None:
    text = (folder / "report.md").read_text()
    assert "<b>" not in text and "toy\\|&lt;b>" in text
    block: list[int] = []
    for line in [*text.splitlines(), ""]:
        if line.startswith("|"):
            block.append(line.replace("\\|", "").count("|"))
        else:
            assert len(set(block)) <= 1
            block = []


def test_latex_is_a_table_with_everything_escaped(folder: Path) -> None:
    text = (folder / "verdicts.tex").read_text()
    assert r"toy|\textless{}b\textgreater{}\_50\%\&" in text
    assert r"stock & side-first & diverged (step 4) \\" in text
    assert r"event & eager & -- \\" in text
    assert text.count(r"\begin{tabular}") == text.count(r"\end{tabular}") == 1
