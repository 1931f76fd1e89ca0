"""What a report says in words: one is one, and what a newcomer cannot use is left out."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.race.explain import explain
from harness.race.report import Access, Coverage, Held, Place, Race, Report
from harness.race.text import text
from harness.words import explained, meaning

HELD = Held(storages_peak=1, accesses_peak=3, accesses_dominated=0, accesses_forgotten=0, events_peak=1)


def race(kind: str, identity: str = "a") -> Race:
    place = (Place(file="train.py", line=1, function="main"),)
    first = Access(op="add", access="WRITE", stream="side", low=0, high=4, site=place)
    access = "FREE" if kind == "freed-in-use" else "READ"
    op = "free" if kind == "freed-in-use" else "mul"
    second = Access(op=op, access=access, stream="compute", low=0, high=4, site=place)
    return Race(
        id=identity,
        kind=kind,
        first=first,
        second=second,
        names={"x": 1},
        nbytes=4,
        count=1,
        ranks=(0,),
    )


def report(*races: Race, held: Held = HELD) -> Report:
    seen = Coverage(device_ops=3)
    return Report(program="t.py", ranks=1, ops=3, races=races, costs=(), held=held, coverage=seen)


@pytest.mark.parametrize(
    ("kind", "one", "two"),
    [
        ("race", "1 unordered pair of lines", "2 unordered pairs of lines"),
        ("freed-in-use", "1 block freed while in use", "2 blocks freed while in use"),
        ("unwritten-read", "1 read of unwritten memory", "2 reads of unwritten memory"),
    ],
)
def test_one_is_said_as_one(kind: str, one: str, two: str) -> None:
    assert next(text(report(race(kind)))).endswith(f": {one}")
    assert next(text(report(race(kind, "a"), race(kind, "b")))).endswith(f": {two}")


def test_a_free_is_named_once() -> None:
    assert "  FREE on compute, bytes 0–3" in list(text(report(race("freed-in-use"))))


def test_what_the_analysis_held_is_said_where_asked_or_where_it_forgot() -> None:
    line = "the analysis held at most 3 accesses to 1 storage and 1 event a rank"
    assert line not in list(text(report()))
    assert line in list(text(report(), full=True))
    forgot = HELD.model_copy(update={"accesses_forgotten": 1})
    shown = list(text(report(held=forgot)))
    assert line in shown
    assert "1 access was forgotten for want of room: a race with them would be missed" in shown


def test_a_policy_that_a_report_names_is_explained() -> None:
    terms = explained("the program's values change under policies main-first, random(2)")
    assert list(terms) == ["main-first", "random(1)"]
    assert meaning("main-first")[1].startswith("The policy that lets the default stream")
    assert meaning("random(7)") == meaning("random(1)")
    assert meaning("pct(3,2,108)") == meaning("pct(1)")


def test_a_file_in_a_failure_is_named_from_where_the_user_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    script = tmp_path / "train.py"
    (tmp_path / "log-0.txt").write_text(
        f'Traceback (most recent call last):\n  File "{script}", line 2, in main\nKeyError: 1\n'
    )
    problem = explain(tmp_path, 1, {"how": "failed", "failed": [(0, 1)]})
    assert problem == "rank 0 failed: KeyError: 1 (in train.py:2, main)"


def test_a_script_that_asks_its_user_is_told_that_nobody_answers(tmp_path: Path) -> None:
    (tmp_path / "log-0.txt").write_text(
        "Traceback (most recent call last):\n"
        '  File "/home/me/train.py", line 2, in <module>\n'
        "EOFError: EOF when reading a line\n"
    )
    problem = explain(tmp_path, 1, {"how": "failed", "failed": [(0, 1)]})
    assert "; standard input is closed here: take what the script asks for from its arguments" in problem
