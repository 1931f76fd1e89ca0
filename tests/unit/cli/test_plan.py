"""`hpz plan` of GPU studies: memory a rank and GPU-hours with what they assume, and what does not fit its card."""

from __future__ import annotations

import json
from typing import Any

import pytest

from harness.cli.plan import budget_notes, plan_rows
from harness.study import Study, load_study
from harness.system.errors import HarnessError
from tests.conftest import StudyFile
from tests.pretraining import sweep
from tests.unit.cli.test_cli import hpz

LARGE: dict[str, Any] = {
    "device": "cuda",
    "gpu": "a100-sxm-80gb",
    "training": {"steps": 10, "sequence_length": 2048, "activation_checkpointing": True},
    "matrix": {"model": "llama2-70b", "variant": "event", "shape": "2x8-hpz8"},
}


def notes(study: Study) -> str:
    return "\n".join(budget_notes(study, plan_rows(study)))


def test_the_command_states_hours_memory_and_what_does_not_fit(study_file: StudyFile) -> None:
    file = str(study_file(**LARGE))
    shown, rows = hpz("plan", file), json.loads(hpz("plan", file, "--json").stdout)
    text = " ".join(shown.stdout.split())
    assert "memory a rank" in text and "GPU-hours in all" in text and "assumed MFU of 35%" in text
    assert "✕ llama2-70b in 2x8-hpz8 (event) needs about" in text and "training.optimizer: cpu-adam" in text
    (hpz_row,) = (row for row in rows if row["variant"] == "event")
    assert hpz_row["fits"] is False and hpz_row["gpu_hours"] > 0
    assert sum(hpz_row["memory"]["parts"].values()) == pytest.approx(hpz_row["memory"]["peak"], abs=10)


def test_hours_go_down_with_the_utilisation_that_is_assumed() -> None:
    half, whole = (sweep(plan={"mfu": mfu}) for mfu in (0.2, 0.4))
    assert plan_rows(half)[0]["gpu_hours"] == pytest.approx(2 * plan_rows(whole)[0]["gpu_hours"])
    assert "assumed MFU of 20% (plan.mfu) of 312 TFLOP/s (a100-sxm-80gb)" in notes(half)


def test_without_a_card_there_is_memory_and_a_word_on_how_to_name_one() -> None:
    study = sweep(gpu=None)
    row = plan_rows(study)[0]
    assert (row["gpu_hours"], row["fits"]) == (None, None) and row["memory"]["peak"] > 0
    assert "Name the card (gpu: a100-sxm-80gb)" in notes(study)


def test_studies_without_a_gpu_are_planned_as_before(study_file: StudyFile) -> None:
    study = load_study(study_file())
    assert budget_notes(study, plan_rows(study)) == []
    assert {row["memory"] for row in plan_rows(study)} == {None}


def test_a_card_that_is_not_known_is_refused_where_the_study_is_read(study_file: StudyFile) -> None:
    with pytest.raises(HarnessError, match="gpu: 'a100' is no card that is known"):
        load_study(study_file(gpu="a100"))


def test_card_and_assumption_are_no_part_of_a_runs_id() -> None:
    assert sweep().runs[0].run_id == sweep(gpu=None, plan={"mfu": 0.5}).runs[0].run_id
