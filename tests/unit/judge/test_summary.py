"""summary.json follows its schema and says of each pair what was recorded, or why it was not."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from rich.console import Console

from analysis.collect.collect import collect_study
from analysis.judge.evidence import weaker
from analysis.judge.summary import load_summary, summarise, write_summary
from analysis.page.verdicts import verdict_table
from harness.record import StepWriter
from harness.study import Run, load_study
from harness.system.errors import HarnessError
from harness.system.places import REPOSITORY
from harness.system.whole_file import write_json
from tests.synthetic import Curve, as_known, healthy, toy_model, write_run, write_study

pytestmark = pytest.mark.usefixtures("made_up_patches")
THREE_EVENTS = {
    "model": "toy",
    "variant": "event",
    "shape": "2x2-hpz2",
    "policy": ["eager", "side-first", "main-first"],
}
SCHEMA = json.loads((REPOSITORY / "analysis" / "schema" / "summary.schema.json").read_text())


def summary_of(folder: Path) -> dict[str, Any]:
    summary = summarise(load_study(folder), collect_study(folder))
    jsonschema.validate(summary, SCHEMA)
    return summary


def change_record(folder: Path, run: Run, change: Callable[[dict[str, Any]], None]) -> None:
    """Edit a run's run.json."""
    file = folder / "runs" / run.run_id / "run.json"
    record = json.loads(file.read_text())
    change(record)
    write_json(file, record)


def pairs_by(summary: dict[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    return {(pair["variant"], pair["policy"]): pair for pair in summary["pairs"]}


def test_each_pair_has_the_verdict_of_its_curve(tmp_path: Path) -> None:
    write_study(tmp_path)
    pairs = pairs_by(summary_of(tmp_path))
    assert {key: pair["verdict"] for key, pair in pairs.items()} == {
        ("stock", "eager"): "exact",
        ("stock", "side-first"): "diverged",
        ("unordered", "eager"): "exact",
        ("unordered", "side-first"): "drifted",
        ("fixed", "eager"): "exact",
        ("fixed", "side-first"): "exact",
        ("event", "eager"): "exact",
        ("event", "side-first"): "exact",
    }
    assert pairs["stock", "side-first"]["first_bad_step"] == 4
    assert pairs["unordered", "side-first"]["first_bad_step"] == 3


def test_every_number_stands_beside_its_evidence_and_patches(tmp_path: Path) -> None:
    write_study(tmp_path)
    pair = pairs_by(summary_of(tmp_path))["event", "side-first"]
    assert pair["evidence"] == "virtual-device"
    assert pair["patch_sha256"] == {"event.patch": hashlib.sha256(b"event").hexdigest()}
    assert pair["secondary_gathers_per_step"] == 30
    assert (pair["host_syncs_per_step"], pair["bytes_inter_per_step"]) == (6, 1000)


def test_variants_are_safe_unsafe_or_untested(tmp_path: Path) -> None:
    write_study(tmp_path)
    variants = {one["variant"]: one for one in summary_of(tmp_path)["variants"]}
    assert {name: one["safe"] for name, one in variants.items()} == {
        "stock": False,
        "unordered": False,
        "fixed": True,
        "event": True,
    }
    assert variants["fixed"]["extra_host_syncs_per_step"] == 24
    assert variants["event"]["extra_host_syncs_per_step"] == 0
    assert variants["stock"]["faults"] == ["reordered, aligned"]


def test_a_variant_that_only_ran_in_order_is_not_called_safe(tmp_path: Path) -> None:
    matrix = {"model": "toy", "variant": "fixed", "shape": "2x2-hpz2", "policy": "eager"}
    write_study(tmp_path, matrix=matrix)
    assert summary_of(tmp_path)["variants"][0]["safe"] is None


def test_values_that_an_order_changed_inside_the_band_do_not_make_a_variant_safe(tmp_path: Path) -> None:
    def curve(run: Run) -> Curve:
        losses = [3.0 - 0.1 * step + 0.2 * (run.seed - 2) for step in range(12)]
        return Curve([loss + (1e-4 if run.policy == "side-first" else 0) for loss in losses])

    cells = {"model": "toy", "variant": "zero3", "shape": "2x2"}
    matrix = [{**cells, "policy": ["eager", "side-first"], "seed": 2}, {**cells, "seed": [1, 3]}]
    write_study(tmp_path, curve, matrix=matrix, baseline={"variant": "zero3", "policy": "eager"})
    (zero3,) = summary_of(tmp_path)["variants"]
    assert (zero3["verdicts"]["equivalent"], zero3["safe"]) == (1, None)


def test_the_missing_copy_shows_in_order_on_unaligned_sizes(tmp_path: Path) -> None:
    def curve(run: Run) -> Curve:
        return as_known(run) if run.variant != "stock" else Curve([float("nan")] * 12)

    matrix = {"model": "odd", "variant": ["stock", "fixed"], "shape": "2x2-hpz2", "policy": "eager"}
    write_study(tmp_path, curve, matrix=matrix, models={"odd": toy_model("llama2-toy-unaligned")})
    summary = summary_of(tmp_path)
    stock = pairs_by(summary)["stock", "eager"]
    assert (stock["model_aligned"], stock["verdict"], stock["first_bad_step"]) == (False, "diverged", 0)
    assert summary["variants"][0]["faults"] == ["in order"]


def test_a_missing_run_has_no_verdict_and_is_listed(tmp_path: Path) -> None:
    study = write_study(tmp_path, lambda run: None if run.variant == "event" else as_known(run))
    summary = summary_of(tmp_path)
    missing = [run.run_id for run in study.runs if run.variant == "event"]
    assert [entry["run_id"] for entry in summary["not_run"]] == missing
    pair = pairs_by(summary)["event", "eager"]
    assert (pair["verdict"], pair["reason"], pair["step_seconds_ratio"]) == (None, "not started", None)


def test_an_unfinished_run_has_no_verdict(tmp_path: Path) -> None:
    study = write_study(tmp_path)
    run = next(run for run in study.runs if run.variant == "fixed")
    write_run(tmp_path, run, Curve(healthy(run)[:5]), state="running")
    pair = pairs_by(summary_of(tmp_path))["fixed", run.policy]
    assert (pair["verdict"], pair["reason"]) == (None, "running after 5 of 12 steps")


def test_without_its_baseline_no_pair_is_judged(tmp_path: Path) -> None:
    write_study(tmp_path, lambda run: None if run.variant == "zero3" else as_known(run))
    assert {pair["reason"] for pair in summary_of(tmp_path)["pairs"]} == {"its baseline: not started"}


def test_a_diverged_baseline_proves_nothing(tmp_path: Path) -> None:
    def curve(run: Run) -> Curve:
        return as_known(run) if run.variant != "zero3" else Curve([float("inf")] * 12)

    write_study(tmp_path, curve)
    assert {pair["reason"] for pair in summary_of(tmp_path)["pairs"]} == {
        "its baseline diverged itself: loss is infinite at step 0"
    }


def test_hpz_without_secondary_gathers_is_refused(tmp_path: Path) -> None:
    write_study(tmp_path, lambda run: Curve(healthy(run), secondary_gathers=0))
    with pytest.raises(HarnessError, match=r"lower deepspeed\.zero_optimization\.stage3_max_live_parameters"):
        summary_of(tmp_path)


def test_runs_of_different_versions_are_not_compared(tmp_path: Path) -> None:
    study = write_study(tmp_path)
    run = next(run for run in study.runs if run.variant == "fixed")
    change_record(tmp_path, run, lambda record: record["versions"].update({"torch": "1.0"}))
    summary = summary_of(tmp_path)
    assert (
        "run and baseline used different versions: torch 1.0 and"
        in pairs_by(summary)["fixed", run.policy]["reason"]
    )
    assert [len(entry["run_ids"]) for entry in summary["environments"]] == [len(study.runs) - 1, 1]


def test_runs_of_other_patches_than_their_variant_are_not_judged(tmp_path: Path) -> None:
    study = write_study(tmp_path, matrix=THREE_EVENTS)
    run = next(run for run in study.runs if run.variant == "event")
    change_record(tmp_path, run, lambda record: record["run"]["patches"].update({"event.patch": "e" * 64}))
    summary = summary_of(tmp_path)
    odd = next(pair for pair in summary["pairs"] if pair["run_id"] == run.run_id)
    assert odd["verdict"] is None
    assert odd["reason"] == "used other patches than most runs of event: event.patch"
    assert [len(entry["run_ids"]) for entry in summary["environments"]] == [len(study.runs) - 1, 1]
    assert summary["environments"][1]["patches"] == {"event": {"event.patch": "e" * 64}}


def test_a_band_is_of_one_release_and_one_set_of_versions(tmp_path: Path) -> None:
    study = write_study(tmp_path)
    pair = pairs_by(summary_of(tmp_path))["unordered", "side-first"]
    assert (pair["baseline_seeds"], pair["band"]) == (3, True)
    other = next(run for run in study.runs if run.variant == "zero3" and run.seed == 3)
    change_record(tmp_path, other, lambda record: record["versions"].update({"torch": "1.0"}))
    pair = pairs_by(summary_of(tmp_path))["unordered", "side-first"]
    assert (pair["baseline_seeds"], pair["band"]) == (2, False)
    assert pair["reason"] == "not bit-equal, and no tolerance band: it needs 3 sound baseline seeds"


def test_seeds_of_different_versions_form_groups_of_their_own(tmp_path: Path) -> None:
    seeds = {"model": "toy", "variant": "event", "shape": "2x2-hpz2", "seed": [1, 2]}
    study = write_study(tmp_path, matrix=seeds)
    assert [group["seeds"] for group in summary_of(tmp_path)["groups"]] == [[1, 2]]
    for run in study.runs:
        if run.seed == 2:
            change_record(tmp_path, run, lambda record: record["versions"].update({"torch": "1.0"}))
    assert [group["seeds"] for group in summary_of(tmp_path)["groups"]] == [[1], [2]]


def test_runs_that_saw_different_batches_are_not_compared(tmp_path: Path) -> None:
    study = write_study(tmp_path)
    fixed, event = (next(run for run in study.runs if run.variant == name) for name in ("fixed", "event"))
    writer = StepWriter(tmp_path / "runs" / fixed.run_id / "steps.jsonl")
    for record in Curve(healthy(fixed)).records():
        writer.write(replace(record, batch_hash=record.step + (record.step >= 4)))
    writer.close()
    for run, digest in ((event, "a"), (study.baseline_of(event), "b")):
        file = tmp_path / "runs" / run.run_id / "status.json"
        status = json.loads(file.read_text())
        status["final"]["batches_sha256"] = digest * 64
        write_json(file, status)
    pairs = pairs_by(summary_of(tmp_path))
    assert "saw different batches, first at step 4" in pairs["fixed", fixed.policy]["reason"]
    assert "saw different batches on a rank other than 0" in pairs["event", event.policy]["reason"]


def test_results_stay_readable_after_a_patch_file_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_study(tmp_path)
    before = summary_of(tmp_path)["pairs"]
    monkeypatch.setattr("harness.study.study.patch_hashes", lambda variant, release: {"new.patch": "f" * 64})
    assert summary_of(tmp_path)["pairs"] == before


def test_a_run_that_the_study_does_not_ask_for_is_named(tmp_path: Path) -> None:
    study = write_study(tmp_path)
    stray = Run.model_validate({**study.runs[0].model_dump(), "seed": 99})
    write_run(tmp_path, stray, Curve(healthy(stray)))
    assert summary_of(tmp_path)["not_asked_for"] == [stray.run_id]


def test_a_seed_inside_the_band_is_equivalent(tmp_path: Path) -> None:
    def curve(run: Run) -> Curve:
        loss = healthy(run)
        return Curve([x + 1e-6 for x in loss] if run.variant == "event" else loss)

    write_study(tmp_path, curve)
    assert pairs_by(summary_of(tmp_path))["event", "eager"]["verdict"] == "equivalent"


def test_a_summary_can_be_read_back(tmp_path: Path) -> None:
    write_study(tmp_path)
    summary = summary_of(tmp_path)
    write_summary(tmp_path, summary)
    assert load_summary(tmp_path) == summary


def test_no_summary_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(HarnessError, match="hpz report"):
        load_summary(tmp_path)


def test_a_summary_of_another_version_is_refused(tmp_path: Path) -> None:
    write_json(tmp_path / "summary.json", {"schema_version": 9})
    with pytest.raises(HarnessError, match="schema_version 9, this version reads 1"):
        load_summary(tmp_path)


def test_a_broken_summary_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "summary.json").write_text("{")
    with pytest.raises(HarnessError, match=r"not JSON .*; run `hpz report .*` again"):
        load_summary(tmp_path)


def test_a_run_analysed_for_races_alone_is_not_missing(tmp_path: Path) -> None:
    study = write_study(tmp_path)
    run = next(run for run in study.runs if run.variant == "fixed")
    directory = write_run(tmp_path, run, Curve([]), state="pending")
    assert [one["run_id"] for one in summary_of(tmp_path)["not_run"]] == [run.run_id]
    (directory.path / "races.json").write_text('{"races": [], "costs": []}')
    assert summary_of(tmp_path)["not_run"] == []


def test_the_terminal_shows_every_pair(tmp_path: Path) -> None:
    write_study(tmp_path)
    console = Console(file=io.StringIO(), width=160)
    console.print(verdict_table(summary_of(tmp_path)))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert text.count("side-first") == 4
    assert "diverged" in text and "drifted" in text
    assert "made-up: verdicts (evidence: virtual-device)" in text


def test_a_number_of_two_levels_has_the_weaker_one() -> None:
    assert weaker("cpu", "virtual-device") == "virtual-device"
    assert weaker("multi-node", "one-gpu") == "one-gpu"


def test_the_terminal_names_the_settings_in_which_pairs_differ(tmp_path: Path) -> None:
    write_study(tmp_path, training={"steps": 12, "gradient_accumulation": 2})
    console = Console(file=io.StringIO(), width=160)
    summary = summary_of(tmp_path)
    console.print(verdict_table(summary))
    summary["pairs"][0]["gradient_accumulation"] = 4
    console.print(verdict_table(summary))
    alike, differing = console.file.getvalue().split("made-up: verdicts")[1:]  # type: ignore[attr-defined]
    assert "accum." not in alike and "accum." in differing
