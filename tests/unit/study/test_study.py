"""A study file becomes runs with ids, pairs and DeepSpeed settings; what is wrong in it is said in one sentence."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness.study import Run, Study, check_weights, load_study, save_study
from harness.study.axes import parse_shape
from harness.system.errors import HarnessError
from harness.system.places import REPOSITORY

MODEL = yaml.safe_load((REPOSITORY / "experiments" / "models" / "llama2-toy.yaml").read_text())
MINIMAL: dict[str, Any] = {
    "name": "tiny",
    "models": {"toy": MODEL},
    "matrix": {
        "model": "toy",
        "variant": ["fixed", "unordered"],
        "shape": "2x2-hpz2",
        "policy": ["eager", "side-first"],
    },
}


def write(tmp_path: Path, **changes: Any) -> Path:
    file = tmp_path / "tiny.yaml"
    file.write_text(yaml.safe_dump({**MINIMAL, **changes}))
    return file


def matrix(**changes: Any) -> dict[str, Any]:
    return {**MINIMAL["matrix"], **changes}


def test_a_block_is_the_product_of_its_axes_plus_baselines(tmp_path: Path) -> None:
    study = load_study(write(tmp_path))
    variants = sorted((run.variant, run.policy) for run in study.runs)
    assert variants == [
        ("fixed", "eager"),
        ("fixed", "side-first"),
        ("unordered", "eager"),
        ("unordered", "side-first"),
        ("zero3", "eager"),
        ("zero3", "side-first"),
    ]


def test_a_pair_differs_in_the_variant_alone(tmp_path: Path) -> None:
    for run, baseline in load_study(write(tmp_path)).pairs:
        assert baseline.variant == "zero3"
        assert (baseline.seed, baseline.policy, baseline.model) == (run.seed, run.policy, run.model)
        assert "zero_hpz_partition_size" not in baseline.deepspeed["zero_optimization"]
        assert run.deepspeed["zero_optimization"]["zero_hpz_partition_size"] == 2


def ids(tmp_path: Path, **data: Any) -> list[str]:
    return [run.run_id for run in load_study(write(tmp_path, data=data)).runs]


def test_a_run_id_changes_with_the_text_and_not_with_its_place(tmp_path: Path) -> None:
    for name, text in (("one.txt", "a"), ("same.txt", "a"), ("other.txt", "b")):
        (tmp_path / name).write_text(text)
    one = ids(tmp_path, source="file", path="one.txt")
    assert one == ids(tmp_path, source="file", path="same.txt")
    assert not set(one) & set(ids(tmp_path, source="file", path="other.txt"))
    assert not set(ids(tmp_path)) & set(ids(tmp_path, sha256="0" * 64)), "the default text is identified, too"


def test_hub_and_file_are_short_for_source_and_path(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("a")
    assert ids(tmp_path, file="mine.txt") == ids(tmp_path, source="file", path="mine.txt")
    data = load_study(write(tmp_path, data={"hub": "some/set", "split": "test"})).data
    assert (data.source, data.path, data.split) == ("hub", "some/set", "test")


def test_two_sets_of_the_hub_are_two_runs(tmp_path: Path) -> None:
    assert not set(ids(tmp_path, hub="some/set")) & set(ids(tmp_path, hub="another/set"))


def test_results_are_read_where_their_text_is_not(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("a")
    study = load_study(write(tmp_path, data={"source": "file", "path": "mine.txt"}))
    save_study(study, tmp_path / "results")
    (tmp_path / "mine.txt").unlink()
    assert load_study(tmp_path / "results").runs == study.runs


def test_the_baseline_may_name_another_policy_and_device(tmp_path: Path) -> None:
    study = load_study(write(tmp_path, baseline={"variant": "zero3", "device": "cpu"}))
    assert {baseline.device for _, baseline in study.pairs} == {"cpu"}
    assert {baseline.policy for _, baseline in study.pairs} == {"native"}


def test_equal_runs_have_equal_ids_and_a_change_changes_the_id(tmp_path: Path) -> None:
    ids = [run.run_id for run in load_study(write(tmp_path)).runs]
    assert ids == [run.run_id for run in load_study(write(tmp_path, name="other")).runs]
    changed = load_study(write(tmp_path, training={"learning_rate": 1e-5})).runs
    assert not set(ids) & {run.run_id for run in changed}


def test_the_model_file_beside_the_study_is_part_of_the_run(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "toy.yaml").write_text(yaml.safe_dump(MODEL))
    study = load_study(write(tmp_path, models={}))
    assert study.runs[0].model_spec == MODEL


def test_a_study_anywhere_may_use_a_shipped_model(tmp_path: Path) -> None:
    study = load_study(write(tmp_path, models={}, matrix=matrix(model="llama2-7b")))
    assert study.runs[0].model_spec["parameters"] == 6_738_415_616


def test_a_model_beside_the_study_comes_before_a_shipped_one_of_its_name(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "llama2-7b.yaml").write_text(yaml.safe_dump(MODEL))
    study = load_study(write(tmp_path, models={}, matrix=matrix(model="llama2-7b")))
    assert study.runs[0].model_spec == MODEL


def test_a_resolved_study_reads_back_as_the_same_runs(tmp_path: Path) -> None:
    study = load_study(write(tmp_path))
    save_study(study, tmp_path / "results")
    again = load_study(tmp_path / "results")
    assert [run.run_id for run in again.runs] == [run.run_id for run in study.runs]


@pytest.mark.parametrize(
    "file", sorted((REPOSITORY / "experiments").glob("*.yaml")), ids=lambda file: file.stem
)
def test_every_shipped_study_expands(file: Path) -> None:
    study = load_study(file)
    assert isinstance(study, Study) and study.runs and study.question


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"trainig": {}}, r"tiny\.yaml: trainig is not a key; did you mean 'training'\?"),
        ({"training": {"stepz": 3}}, r"training\.stepz is not a key; did you mean 'steps'\?"),
        ({"training": {"steps": 0}}, r"training\.steps: .*greater than or equal to 1 \(given: 0\)"),
        (
            {"training": {"checkpoint": "weights"}},
            r"training: task pretrain starts from random weights; set task: finetune",
        ),
        ({"matrix": matrix(polcy="eager")}, r"matrix\[0\]\.polcy is not an axis; did you mean 'policy'\?"),
        (
            {"matrix": matrix(policy="sidefirst")},
            r"matrix\.policy: 'sidefirst' is unknown; did you mean 'side-first'\?",
        ),
        ({"matrix": matrix(poison="zero")}, r"matrix\.poison: 'zero' is unknown"),
        ({"matrix": matrix(variant="fixd")}, r"fixd.*did you mean 'fixed'"),
        ({"matrix": matrix(model="toyy")}, r"'toyy' has no file models/toyy\.yaml.*llama2-toy"),
        ({"matrix": matrix(shape="2x2-hpz3")}, r"hpz=3 must divide the world size 2 × 2 = 4"),
        ({"matrix": matrix(shape="1x8-hpz16")}, r"hpz=16 must divide the world size"),
        (
            {"matrix": matrix(shape="3x2-hpz3")},
            r"hpz=3 must divide ranks_per_node=2 or be a multiple of it; use one of",
        ),
        ({"matrix": []}, r"matrix holds no block, so there is nothing to run"),
        ({"matrix": matrix(model=[])}, r"matrix\[0\]\.model is an empty list, which leaves no run"),
        ({"matrix": [matrix(), matrix(seed="one")]}, r"matrix\[1\]\.seed: .*valid integer.*'one'"),
        ({"matrix": matrix(device="tpu")}, r"matrix\[0\]\.device: .*'cuda' \(given: 'tpu'\)"),
        ({"baseline": {"steps": 0}}, r"baseline\.steps: .*greater than or equal to 1 \(given: 0\)"),
        ({"models": "toy"}, r"models: Input should be a valid dictionary \(given: 'toy'\)"),
        ({"matrix": matrix(shape="two")}, r"'two' is not of the form NODESxRANKS-hpzSIZE"),
        ({"matrix": matrix(shape="2x2")}, r"hpz=1 turns hpZ off, so variant 'fixed' cannot run"),
        ({"matrix": {"model": "toy", "variant": "fixed"}}, r"matrix\[0\] lacks shape"),
        (
            {"deepspeed": {"zero_optimization": {"stage": 2}}},
            r"deepspeed\.zero_optimization\.stage is the study's",
        ),
        (
            {"deepspeed": {"zero_optimization": None}},
            r"deepspeed\.zero_optimization must hold keys; leave it out",
        ),
        ({"deepspeed": {"zero_optimization": 3}}, r"deepspeed\.zero_optimization must hold keys"),
        ({"data": {"source": "file", "path": "nowhere.txt"}}, r"data\.path: no file 'nowhere\.txt'"),
        ({"data": {"source": "hub"}}, r"data\.path: needed for source 'hub'; give a Hub name or a folder"),
        ({"data": {"hub": "a", "path": "b"}}, r"data: hub stands for source and path; leave path out"),
        ({"data": {"source": "file"}}, r"data\.path: needed for source 'file'; give a text file"),
        (
            {"data": {"path": "mine.txt"}},
            r"data\.path: source 'stdlib' has its own text .* data\.source: file",
        ),
        (
            {"models": {"toy": {**MODEL, "sauce": 1}}},
            r"models\.toy: sauce is not a key; did you mean 'source'",
        ),
        ({"release": "0.1.0"}, r"0\.1\.0 has no hpZ"),
    ],
)
def test_bad_input_gets_one_sentence(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(HarnessError, match=message) as error:
        load_study(write(tmp_path, **changes))
    assert "\n" not in str(error.value)


def test_a_finetune_without_weights_is_planned_but_not_started(tmp_path: Path) -> None:
    study = load_study(write(tmp_path, training={"task": "finetune"}))
    with pytest.raises(
        HarnessError, match=r"training\.checkpoint: a finetune starts from weights; give a folder"
    ):
        check_weights(study)
    check_weights(load_study(write(tmp_path, training={"task": "finetune", "checkpoint": "weights"})))
    check_weights(load_study(write(tmp_path)))


def test_each_model_may_start_from_its_own_weights(tmp_path: Path) -> None:
    study = load_study(
        write(
            tmp_path,
            models={"toy": MODEL, "twin": MODEL},
            matrix=matrix(model=["toy", "twin"]),
            training={"task": "finetune", "checkpoint": "weights/{model}"},
        )
    )
    assert {(run.model, run.training.checkpoint) for run in study.runs} == {
        ("toy", "weights/toy"),
        ("twin", "weights/twin"),
    }


def test_a_missing_file_and_broken_yaml_are_named(tmp_path: Path) -> None:
    with pytest.raises(HarnessError, match=r"nothing\.yaml: cannot be read"):
        load_study(tmp_path / "nothing.yaml")
    broken = tmp_path / "broken.yaml"
    broken.write_text("name: [")
    with pytest.raises(HarnessError, match=r"broken\.yaml: not YAML"):
        load_study(broken)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("source: [", r"^\S*models/toy\.yaml: not YAML"),
        ("- 1", r"^\S*models/toy\.yaml: holds no keys"),
        (yaml.safe_dump({**MODEL, "sauce": 1}), r"^\S*models/toy\.yaml: sauce is not a key"),
    ],
)
def test_what_is_wrong_in_a_model_file_is_blamed_on_it(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "toy.yaml").write_text(text)
    with pytest.raises(HarnessError, match=message):
        load_study(write(tmp_path, models={}))


def test_a_results_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(HarnessError, match=r"file/below: cannot be a results folder \(.*give another one"):
        save_study(load_study(write(tmp_path)), tmp_path / "file" / "below")


def test_a_results_folder_that_cannot_be_written_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write everywhere
    with pytest.raises(HarnessError, match=r"cannot be a results folder \(Permission denied\)"):
        save_study(load_study(write(tmp_path)), tmp_path / "results")


def test_a_results_folder_whose_study_is_broken_is_named(tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_text("name: [")
    with pytest.raises(HarnessError, match=r"study\.yaml: not YAML"):
        save_study(load_study(write(tmp_path)), tmp_path)


def test_results_of_another_study_are_refused(tmp_path: Path) -> None:
    save_study(load_study(write(tmp_path)), tmp_path / "results")
    with pytest.raises(HarnessError, match="holds results of study 'tiny'"):
        save_study(load_study(write(tmp_path, name="other")), tmp_path / "results")


def test_shapes_read_as_text_or_mapping() -> None:
    assert parse_shape("8x8-hpz8") == parse_shape({"nodes": 8, "ranks_per_node": 8, "hpz": 8})
    assert str(parse_shape("2x2")) == "2x2"


def cuda(**changes: Any) -> dict[str, Any]:
    return {**{k: v for k, v in MINIMAL["matrix"].items() if k != "policy"}, "device": "cuda", **changes}


def test_a_stall_is_an_axis_of_the_gpu_and_part_of_a_run_only_where_there_is_one(tmp_path: Path) -> None:
    plain = load_study(write(tmp_path, matrix=cuda()))
    stalled = load_study(write(tmp_path, matrix=cuda(stall_us=[0, 300])))
    assert {run.run_id for run in plain.runs} < {run.run_id for run in stalled.runs}
    assert {run.stall_us for run in stalled.runs} == {0, 300}
    assert all("stall300us" in run.run_id for run in stalled.runs if run.stall_us)


@pytest.mark.parametrize("stall", [-1, 1.5, True, "300us", 10_001])
def test_a_stall_is_a_bounded_whole_number_of_microseconds(tmp_path: Path, stall: Any) -> None:
    with pytest.raises(
        HarnessError, match=r"matrix\.stall_us: .* is not a whole number of microseconds from 0 to 10000"
    ):
        _ = load_study(write(tmp_path, matrix=cuda(stall_us=stall))).runs


@pytest.mark.parametrize("device", ["cpu", "virtual"])
def test_only_a_gpu_can_be_stalled(tmp_path: Path, device: str) -> None:
    with pytest.raises(HarnessError, match=rf"matrix\.stall_us: device {device} .* use device: cuda"):
        _ = load_study(write(tmp_path, matrix=cuda(stall_us=300, device=device))).runs


def test_virtual_nodes_on_one_machine_are_no_evidence_of_many(tmp_path: Path) -> None:
    real = load_study(write(tmp_path, matrix=cuda())).runs
    virtual = load_study(write(tmp_path, matrix=cuda(), virtual_nodes=True)).runs
    assert {run.evidence for run in real} == {"multi-node"}
    assert {run.evidence for run in virtual} == {"one-gpu"}
    assert not {run.run_id for run in real} & {run.run_id for run in virtual}


@pytest.mark.parametrize("name", ["laptop", "ablation"])
def test_the_reference_results_keep_their_ids(name: str) -> None:
    import pandas as pd

    recorded = pd.read_parquet(REPOSITORY / "results" / "reference" / name / "runs.parquet")
    for run_id, record in zip(recorded["run_id"], recorded["record"], strict=True):
        assert Run.model_validate(json.loads(record)["run"]).run_id == run_id
