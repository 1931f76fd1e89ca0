"""`hpz explain` says what a word of the reports means."""

from __future__ import annotations

import pytest

from harness.cli.explain import explain
from harness.system.errors import HarnessError
from harness.words import WORDS


def test_a_word_is_said_in_plain_language(capsys: pytest.CaptureFixture[str]) -> None:
    explain(["secondary", "Tensor"])
    assert capsys.readouterr().out.startswith("secondary tensor: hpZ's second copy of a weight's piece")


def test_without_a_word_all_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    explain(None)
    assert set(capsys.readouterr().out.strip().split(", ")) == set(WORDS)


def test_a_word_that_is_not_known_is_refused_with_the_nearest() -> None:
    with pytest.raises(HarnessError, match="did you mean 'policy'"):
        explain(["polcy"])
