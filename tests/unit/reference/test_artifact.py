"""The artefact's claims are data that can be looked up, and its table says which of them were found otherwise."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from analysis.judge.look_up import look_up
from analysis.reference import artifact as module
from analysis.reference.artifact import Artifact, Relative, Step, agrees, artifact, examine, page, table
from harness.system.errors import HarnessError
from harness.system.places import REPOSITORY

CONTENT = {"rows": [{"id": "a", "of": "x.y", "n": 3}, {"id": "b", "n": 4}], "deep": {"er": [1, 2]}}


@pytest.mark.parametrize(
    ("at", "value"),
    [
        ("", CONTENT),
        ("rows.[id=b].n", 4),
        ("rows.[id=a,of=x.y].n", 3),
        ("deep.er.length", 2),
        ("rows.count[id=b]", 1),
        ("rows.count[id=c]", 0),
    ],
)
def test_a_place_names_one_value(at: str, value: Any) -> None:
    assert look_up(CONTENT, at) == value


@pytest.mark.parametrize(
    "at", ["none", "rows.[id=c].n", "rows.[n=3].none", "deep.er.[id=a]", "rows.count[none=1]"]
)
def test_a_place_where_nothing_stands_is_named(at: str) -> None:
    with pytest.raises(HarnessError, match="nothing stands at"):
        look_up(CONTENT, at)


def test_tolerances() -> None:
    assert agrees(1.5, 1.51, Relative(relative=0.01)) and not agrees(1.5, 1.53, Relative(relative=0.01))
    assert agrees(0.05, 0.02, "at_most") and not agrees(0.05, 0.06, "at_most")
    assert agrees("supported", "supported", "exact") and not agrees(12, 11, "exact")


def test_every_claim_has_a_step_and_every_reference_result_its_number() -> None:
    what = artifact()
    steps = {step.id for step in what.steps}
    assert {claim.step for claim in what.claims} == steps, "a step that no claim needs is not run"
    assert len({claim.id for claim in what.claims}) == len(what.claims)
    for claim in what.claims:
        if isinstance(claim.expected, module.Reference):
            assert look_up(module._reference(claim.expected.reference), claim.at) is not None


def test_the_appendix_shows_the_claims_as_they_are() -> None:
    assert page() in (REPOSITORY / "ARTIFACT.md").read_text(), "python -m analysis claims prints them"


def test_what_was_found_otherwise_and_what_failed_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = [
        {
            "id": "good",
            "says": "prints",
            "evidence": "virtual-device",
            "command": 'echo \'{{"n": 3, "m": 4}}\'',
        },
        {"id": "bad", "says": "fails", "command": "echo broken >&2; exit 3"},
    ]
    claims = [
        {"id": "n", "says": "n is 3", "step": "good", "at": "n", "expected": 3},
        {"id": "m", "says": "m is 5", "step": "good", "at": "m", "expected": 5},
        {"id": "b", "says": "it runs", "step": "bad", "at": "n", "expected": 1},
    ]
    what = Artifact.model_validate({"steps": steps, "claims": claims})
    monkeypatch.setattr(module, "artifact", lambda: what)
    said: list[str] = []
    found = examine(tmp_path / "out", kick=False, say=said.append)
    assert [line.split()[-1] for line in table(found)] == ["found", "ok", "DIFFERENT", "DIFFERENT"]
    assert any("failed: broken" in line for line in said)
    assert (tmp_path / "out" / "bad.log").read_text() == "$ echo broken >&2; exit 3\nbroken\n"
    record = json.loads((tmp_path / "out" / "artifact.json").read_text())
    assert record["steps"]["good"].keys() == {"seconds", "memory_bytes", "disk_bytes"}
    assert [claim["level"] for claim in record["claims"]] == [
        "virtual-device",
        "virtual-device",
        "arithmetic",
    ]


def test_a_step_of_a_level_that_is_none_is_refused() -> None:
    with pytest.raises(ValidationError, match="'gpu' is no evidence level; one of multi-node"):
        Step(id="x", says="x", command="x", evidence="gpu")
