"""The paper's numbers, once somebody fills them in, stand beside those of a study."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from analysis.judge.paper_form import FORM, Form, load_form, paper_rows
from harness.study import load_study
from harness.system.errors import HarnessError
from harness.system.places import REPOSITORY

STUDY = load_study(REPOSITORY / "experiments" / "historical.yaml")


def form(tmp_path: Path, **content: object) -> Form:
    (tmp_path / "form.yaml").write_text(yaml.safe_dump(content))
    return load_form(tmp_path / "form.yaml")


def test_the_form_asks_for_every_unknown_and_is_empty() -> None:
    unknown = yaml.safe_load((FORM.parent / "claims.yaml").read_text())["unknown"]
    content = yaml.safe_load(FORM.read_text())
    assert {*content["settings"], "every value of the tables and figures"} == set(unknown)
    assert paper_rows(STUDY, {}, load_form()) == []


def test_what_is_filled_in_is_compared(tmp_path: Path) -> None:
    numbers = [
        {"what": "table 1", "value": 2.0, "at": "rows.[id=a].loss", "within": 0.1},
        {"what": "table 2", "value": 3.0, "at": "rows.[id=a].loss"},
        {"what": "table 3", "value": 3.0, "at": "rows.[id=z].loss"},
    ]
    settings = {"sequence length": [16, 2048], "gradient accumulation": 1, "node counts": 8, "code": "github"}
    filled = form(
        tmp_path, source="v3", settings=settings, **{"every value of the tables and figures": numbers}
    )
    rows = paper_rows(STUDY, {"rows": [{"id": "a", "loss": 2.1}]}, filled)
    assert [(row["what"], row["same"]) for row in rows] == [
        ("node counts", "other"),
        ("sequence length", "partly"),
        ("gradient accumulation", "same"),
        ("code", "not in this study"),
        ("table 1", "same"),
        ("table 2", "other"),
        ("table 3", "not in this study"),
    ]
    assert rows[4] == {"what": "table 1", "paper": "2", "here": "2.1", "same": "same"}


def test_numbers_without_their_source_and_unknown_keys_are_refused(tmp_path: Path) -> None:
    with pytest.raises(HarnessError, match="source: say which text"):
        form(tmp_path, settings={"seeds": 3})
    with pytest.raises(HarnessError, match=r"settings\.sedes"):
        form(tmp_path, source="v3", settings={"sedes": 3})
