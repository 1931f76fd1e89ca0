"""A pretraining sweep at real size, from made-up numbers: the first person with a cluster gets this report at once."""

from __future__ import annotations

import json
from functools import partialmethod
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from analysis.draw.figure import Figure
from analysis.page.report import build_report
from harness.budget import model_flops_per_token, model_of
from harness.study import Study, load_study
from harness.system.places import REPOSITORY
from tests.pretraining import MODELS, sweep, write_sweep
from tests.synthetic import fake_patches

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of the whole sweep with its report: 5 models, 4 variants, 2 numbers of nodes, 3 seeds."""
    place = tmp_path_factory.mktemp("pretraining")
    with pytest.MonkeyPatch.context() as patched:
        fake_patches(patched)
        patched.setattr(Figure, "write", partialmethod(Figure.write, formats=("svg",)))
        write_sweep(place, sweep())
        build_report(place)
    return place


@pytest.fixture(scope="module")
def summary(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    return content


def test_the_summary_is_as_its_schema_says(summary: dict[str, Any]) -> None:
    schema = json.loads((REPOSITORY / "analysis" / "schema" / "summary.schema.json").read_text())
    jsonschema.validate(summary, schema)


def test_seeds_are_put_together_and_nothing_else_is(summary: dict[str, Any]) -> None:
    groups = summary["throughput"]["groups"]
    assert len(summary["throughput"]["runs"]) == 120
    assert len(groups) == 40
    assert {tuple(group["seeds"]) for group in groups} == {(1, 2, 3)}
    assert {group["interval_over"] for group in groups} == {"seeds"}


def test_rates_follow_from_tokens_seconds_and_the_formula(summary: dict[str, Any]) -> None:
    run = next(one for one in sweep().runs if (one.model, one.variant) == ("llama2-7b", "event"))
    record = next(r for r in summary["throughput"]["runs"] if r["run_id"].startswith(run.run_id[:30]))
    rate = record["tokens_per_second_per_rank"]
    assert rate["low"] < rate["estimate"] < rate["high"]
    assert record["tokens_per_second"] == pytest.approx(16 * rate["estimate"])
    assert record["tokens_per_second"] == pytest.approx(
        run.tokens_per_step / record["step_seconds"], rel=0.02
    )
    flops = model_flops_per_token(model_of(run), 2048)
    assert record["model_tflops_per_rank"] == pytest.approx(rate["estimate"] * flops / 1e12)
    assert record["mfu"] == pytest.approx(0.40, rel=0.02)  # what the generator made up
    assert record["mfu"] < record["hfu"] < 4 / 3 * record["mfu"]
    assert record["peak"] == {"card": "a100-sxm-80gb", "tflops": 312.0, "dtype": "bf16"}


def test_memory_split_and_hours_are_those_of_the_records(summary: dict[str, Any]) -> None:
    record = summary["throughput"]["runs"][0]
    assert record["memory"]["allocated"] == 40_000_000_000 + 1_000_000 * 15
    assert len(record["memory"]["ranks"]["reserved"]) == 16
    split = record["split"]
    assert split["forward_seconds"] == pytest.approx(0.3 * record["step_seconds"], rel=0.05)
    assert record["validation_loss"] is not None
    (hours,) = summary["throughput"]["hours"]
    assert (hours["evidence"], hours["runs"]) == ("multi-node", 120)
    assert hours["rank_hours"] == pytest.approx(sum(r["rank_hours"] for r in summary["throughput"]["runs"]))
    assert hours["gpu_hours_planned"] is not None


def test_the_figures_of_the_papers_form_are_drawn(folder: Path) -> None:
    drawn = {file.stem for file in (folder / "figures").glob("*.svg")}
    assert {"throughput", "step_split"} <= drawn
    assert {f"progress_{model}_{nodes}x8-hpz8" for model in MODELS for nodes in (2, 4)} <= drawn
    picture = (folder / "figures" / "throughput.svg").read_text()
    assert all(model in picture for model in MODELS) and "tokens/s a GPU" in picture


def test_the_page_and_the_text_state_the_formula_and_the_table(folder: Path) -> None:
    page, text = (folder / "report.html").read_text(), (folder / "report.md").read_text()
    for where in (page, text):
        assert "6·N + 12·L·H·Q·S" in where
        assert "312 TFLOP/s (a100-sxm-80gb, bf16)" in where
        assert "GPU-hours in the recorded steps of 120 runs (multi-node)" in where
    assert "tokens/s a GPU" in page and "model TFLOP/s a GPU" in text
    assert 'id="throughput"' in page and "not drawn" not in page.lower()


def test_the_study_that_is_shipped_gets_its_report_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its smallest and its largest model; what the text was is all that a first run would add."""
    content = load_study(REPOSITORY / "experiments" / "pretrain.yaml").model_dump(mode="json")
    content["data"]["sha256"] = "0" * 64
    content["matrix"] = [content["matrix"][0], content["matrix"][-1]]
    study = Study.model_validate(content)
    monkeypatch.setattr(Figure, "write", partialmethod(Figure.write, formats=("svg",)))
    write_sweep(tmp_path, study)
    build_report(tmp_path)
    drawn = {file.stem for file in (tmp_path / "figures").glob("*.svg")}
    assert {"throughput", "step_split", "verdicts"} <= drawn
    for model in ("llama2-7b", "llama2-70b"):
        for picture in ("loss", "progress"):
            assert any(name.startswith(f"{picture}_{model}_8x8-hpz8") for name in drawn)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert {group["evidence"] for group in summary["throughput"]["groups"]} == {"multi-node"}
    assert len(summary["pairs"]) == len(study.pairs) and not summary["not_run"]
