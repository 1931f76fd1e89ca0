"""`hpz explain` says what a word of the reports means."""

from __future__ import annotations

import pytest

from harness.cli.explain import explain
from harness.system.errors import HarnessError
from harness.words import WORDS, explained
from harness.words.words import TERMS


def test_a_word_is_said_in_plain_language(capsys: pytest.CaptureFixture[str]) -> None:
    explain(["secondary", "Tensor"])
    assert capsys.readouterr().out.startswith("secondary tensor: hpZ's second copy of a weight's piece")


def test_without_a_word_all_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    explain(None)
    assert set(capsys.readouterr().out.strip().split(", ")) == set(WORDS)


def test_a_word_that_is_not_known_is_refused_with_the_nearest() -> None:
    with pytest.raises(HarnessError, match="did you mean 'policy'"):
        explain(["polcy"])


def test_a_message_explains_each_term_once_in_the_order_of_its_mention() -> None:
    terms = explained("ranks read the secondary partition; the all-gather of a rank is on another stream")
    assert list(terms) == ["rank", "secondary tensor", "all-gather", "stream"]
    assert terms["stream"] == "A queue of work on a GPU"


def test_plain_english_is_not_explained() -> None:
    assert not explained("localhost ran a restream in order; each pair of runs is an upstream event")


def test_every_term_is_a_word_of_the_glossary_and_found_where_it_is_named() -> None:
    assert all(term in explained(f"of {term}, and so on") for term in TERMS)
    assert set(TERMS) <= set(WORDS)
