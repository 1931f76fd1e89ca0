"""Releases of DeepSpeed as people name them, and what is unsure in that."""

from __future__ import annotations

import pytest

from harness.configuration import named_release, no_zeropp
from harness.system.errors import HarnessError

FIX = "4578c249"  # the commit of #5216, between 0.13.4 and 0.13.5


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("0.13.4", "0.13.4"),
        ("v0.13.4", "0.13.4"),
        ("13.4", "0.13.4"),
        ("deepspeed==0.14.2", "0.14.2"),
        ("DeepSpeed 0.14.2", "0.14.2"),
        ("0.16.4+cu128", "0.16.4"),
        ("0.16.4+unknown", "0.16.4"),
        ("0.13.4.post1", "0.13.4"),
        ("0.20.1", "0.20.1"),
        ("2024-02-28", "0.13.4"),
        (FIX, "0.13.4"),
        (FIX.upper(), "0.13.4"),
        ("5115df3f0", "0.13.4"),  # the very commit of 0.13.4
        ("latest", "0.19.8"),
    ],
)
def test_a_release_is_known_by_many_names(text: str, name: str) -> None:
    assert named_release(text).name == name


def test_a_build_from_sources_calls_itself_by_the_next_release() -> None:
    known, foreign = named_release(f"0.13.5+{FIX}"), named_release("0.13.5+e1a2f3")
    assert (known.name, known.until) == (foreign.name, foreign.until) == ("0.13.4", "0.13.5")
    assert "of 2024-03-01, between 0.13.4 and 0.13.5" in known.note
    assert "what 0.13.5 changed may be in it or not" in known.note
    assert "which is not known here" in foreign.note


def test_what_was_made_of_a_name_is_said() -> None:
    assert named_release("0.13.4").note == ""
    assert named_release("13.4").note == "13.4 is read as 0.13.4"
    assert "on 2024-02-28 the newest release was 0.13.4" in named_release("2024-02-28").note


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("0.13", "may be any of 0.13.0 to 0.13.5; give all three numbers"),
        ("0.19.x", "is not a version such as 0.13.4, a commit of DeepSpeed or a day"),
        ("abcdef12", "no commit of DeepSpeed known here begins with abcdef12; give its day"),
        ("2021-01-01", "had no ZeRO"),
    ],
)
def test_what_names_no_release_is_refused(text: str, sentence: str) -> None:
    with pytest.raises(HarnessError, match=sentence):
        named_release(text)


def test_a_release_before_zeropp_is_said_to_be_one() -> None:
    assert "0.9.5 has no ZeRO++ (it came with 0.10.0)" in no_zeropp("0.9.5")
    assert no_zeropp("0.10.0") == ""
