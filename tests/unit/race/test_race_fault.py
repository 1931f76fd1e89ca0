"""A fault of the corpus is one file: what it says, how a bad one is refused, and how the answers are counted."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from rich.console import Console

from harness.race.corpus_releases import releases_of
from harness.race.fault import Fault, Find, is_corpus, load_case, load_corpus
from harness.race.fault_pairs import SCHEMA_FILE, NotHere, Pair, Pairs, Shown, Silent, json_schema, order_of
from harness.race.fault_pairs_table import markdown, print_pairs
from harness.race.report import Access, Place, Race
from harness.system.errors import HarnessError
from harness.system.places import REPOSITORY

CORPUS = REPOSITORY / "experiments" / "corpus"
GOOD: dict[str, Any] = {
    "fault": "The copy is read before it was written. Nothing orders the two.",
    "kind": "order",
    "has": {"release": "0.19.7"},
    "ended": {"release": "0.19.8"},
    "find": {"first": "write", "second": "read"},
}


def written(folder: Path, **changes: Any) -> Path:
    """A good file with some keys changed; None takes a key out."""
    content = {key: value for key, value in (GOOD | changes).items() if value is not None}
    (folder / "loop.py").touch()
    (folder / "a-fault.yaml").write_text(yaml.safe_dump(content))
    return folder / "a-fault.yaml"


def test_every_fault_that_is_shipped_can_be_read() -> None:
    cases = load_corpus(CORPUS)
    assert sum(case.fault.not_here is None for case in cases) >= 14
    assert all(case.fault.links or case.fault.note for case in cases)


def test_what_a_corpus_needs_of_releases_is_known() -> None:
    releases = releases_of(CORPUS)
    assert releases == sorted(set(releases)) and {"0.13.4", "0.19.8"} <= set(releases)


def test_every_program_and_patch_of_the_corpus_is_used() -> None:
    faults = [case.fault for case in load_corpus(CORPUS)]
    sides = [side for fault in faults for side in (fault.has, fault.ended) if side]
    used = {fault.program for fault in faults} | {side.patch for side in sides}
    assert {file.name for file in CORPUS.iterdir() if file.suffix != ".yaml"} - {"__pycache__"} <= used


def test_a_file_says_how_its_program_is_started(tmp_path: Path) -> None:
    case = load_case(written(tmp_path, steps=3, ranks=4, config={"bf16": {"enabled": True}}))
    assert case.fault.ended is not None
    program = case.program(case.fault.ended)
    assert program.arguments == ("--steps", "3", "--config", '{"bf16": {"enabled": true}}')
    assert (program.ranks, program.release, program.variant) == (4, "0.19.8", "fixed")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ended": None}, "ended is missing; give has, ended and find, or say under not_here why"),
        (
            {"kind": "oder"},
            "kind: Input should be 'order', 'lifetime', 'unwritten' or 'index' (given: 'oder')",
        ),
        ({"rank": 2}, "rank is not a key"),
        ({"ranks": 0}, "ranks: Input should be greater than or equal to 1 (given: 0)"),
        ({"has": {"release": "0.9.0"}}, "has: DeepSpeed 0.9.0"),
        ({"has": {"release": "0.19.8", "variant": "evnt"}}, "has: 'evnt' is not a variant"),
        ({"ended": {"release": "0.19.8", "patch": "a.patch"}}, "ended.patch: there is no a.patch there"),
        ({"program": "lop.py"}, "program: there is no lop.py beside it"),
        ({"find": {"first": "write"}}, "find.second is missing; give it"),
    ],
)
def test_a_bad_file_is_one_clear_sentence(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    file = written(tmp_path, **changes)
    with pytest.raises(HarnessError) as error:
        load_case(file)
    assert str(error.value).startswith(f"{file}: {message}")
    assert "\n" not in str(error.value)


def test_what_cannot_be_met_here_needs_no_program(tmp_path: Path) -> None:
    reason = {"not_here": "needs NVMe", "has": None, "ended": None, "find": None, "program": "none.py"}
    assert load_case(written(tmp_path, **reason)).fault.not_here == "needs NVMe"


def test_a_corpus_is_told_from_a_study_and_from_results(tmp_path: Path) -> None:
    assert is_corpus(CORPUS)
    assert is_corpus(CORPUS / "step-copy.yaml")
    assert not is_corpus(REPOSITORY / "experiments" / "races.yaml")
    (tmp_path / "study.yaml").touch()
    assert not is_corpus(tmp_path)


def race(first: str, second: str, kind: str = "race") -> Race:
    ends = [
        Access(
            op="copy_",
            access="WRITE",
            stream="compute",
            low=0,
            high=4,
            site=tuple(Place(file="a.py", line=1, function=name) for name in (inner, "step")),
        )
        for inner in (first, second)
    ]
    return Race.model_validate(
        {"id": "1", "kind": kind, "first": ends[0], "second": ends[1]}
        | {"names": {}, "nbytes": 4, "count": 1, "ranks": (0,)}
    )


def test_a_finding_is_what_is_wanted_by_its_kind_and_a_function_on_either_path() -> None:
    find = Find(first="write", second="step")
    assert find.is_met_by(race("write", "read"))
    assert not find.is_met_by(race("read", "write"))
    assert not find.is_met_by(race("write", "read", kind="freed-in-use"))


def pair(name: str, has: str = "found", ended: str = "clean", seconds: float | None = 5.0) -> Pair:
    return Pair(
        name=name,
        kind="order",
        fault=GOOD["fault"],
        links=("https://github.com/deepspeedai/DeepSpeed/pull/5606",),
        has=Shown.model_validate({"release": "0.1", "verdict": has, "seconds": seconds, "why": None}),
        ended=Silent.model_validate({"release": "0.2", "verdict": ended}),
        asked="",
    )


def pairs() -> Pairs:
    all_of_them = [pair("a"), pair("b", ended="wrong", seconds=7.0), pair("c", has="missed", seconds=None)]
    return Pairs(
        pairs=tuple(sorted(all_of_them, key=order_of)),
        not_here=(NotHere(name="d", kind="order", fault=GOOD["fault"], why="needs NVMe"),),
        versions={},
        seconds=9.0,
        asked=3,
    )


def test_misses_come_first_and_then_false_alarms() -> None:
    assert [pair.name for pair in pairs().pairs] == ["c", "b", "a"]


def test_the_numbers_are_in_one_sentence() -> None:
    assert pairs().found == 2
    assert pairs().summary == (
        "2 of 3 faults found, 1 false alarms on the 3 sides that ended them; 6.0 s (median, at most 7.0 s) "
        "to a failing schedule; 1 cannot be met here"
    )


def test_the_table_holds_every_fault() -> None:
    console = Console(file=io.StringIO(), width=160)
    print_pairs(pairs(), console)
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    assert "0.1: missed" in printed
    assert "not here: d: needs NVMe" in printed
    assert printed.rstrip().endswith("1 cannot be met here")


def test_the_json_follows_the_documented_schema() -> None:
    schema = json.loads(SCHEMA_FILE.read_text())
    assert schema == json_schema(), "run: python -m harness.race.schemas"
    jsonschema.validate(json.loads(pairs().model_dump_json()), schema)


def test_the_page_holds_the_table_of_the_reference_results() -> None:
    reference = REPOSITORY / "results" / "reference" / "corpus" / "corpus.json"
    table = markdown(Pairs.model_validate_json(reference.read_text()))
    assert table in (REPOSITORY / "docs" / "reference" / "corpus.md").read_text()


def test_the_reference_results_are_of_the_corpus_as_it_stands() -> None:
    reference = REPOSITORY / "results" / "reference" / "corpus" / "corpus.json"
    found = Pairs.model_validate_json(reference.read_text())
    cases = {case.name: case.fault for case in load_corpus(CORPUS)}
    assert {pair.name for pair in (*found.pairs, *found.not_here)} == cases.keys()
    for one in found.pairs:
        assert (one.fault, one.kind) == (cases[one.name].fault, cases[one.name].kind)


def test_a_fault_needs_no_more_than_two_sentences_and_two_releases() -> None:
    assert Fault.model_validate(GOOD).shows == "other values"
