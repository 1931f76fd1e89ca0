"""Axes of a sweep: what can be swept, what it does to a run and its id, and what is refused."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness.study import Study, load_study
from harness.system.errors import HarnessError

PREFETCH = "deepspeed.zero_optimization.stage3_prefetch_bucket_size"


def study(tmp_path: Path, block: dict[str, Any], **keys: Any) -> Study:
    cell = {"model": "llama2-toy", "variant": "event", "shape": "2x2-hpz2", **block}
    file = tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump({"name": "axes", "device": "cpu", **keys, "matrix": [cell]}))
    return load_study(file)


def test_any_key_of_deepspeeds_json_can_be_swept_and_the_baseline_has_it_too(tmp_path: Path) -> None:
    found = study(tmp_path, {PREFETCH: [10, 20]})
    assert found.swept == ("variant", "shape", "hpz", PREFETCH)
    for run, baseline in found.pairs:
        assert Study.axis_value(run, PREFETCH) == Study.axis_value(baseline, PREFETCH)
        assert baseline.variant == "zero3"
    assert len(found.pairs) == 2


def test_a_global_batch_in_tokens_becomes_gradient_accumulation(tmp_path: Path) -> None:
    found = study(
        tmp_path,
        {"shape": ["1x2-hpz2", "2x2-hpz2"], "global_batch": 1024},
        training={"micro_batch": 2, "sequence_length": 64},
    )
    assert {(run.shape.world_size, run.training.gradient_accumulation) for run in found.runs} == {
        (2, 4),
        (4, 2),
    }
    assert {run.tokens_per_step for run in found.runs} == {1024}


def test_said_as_accumulation_or_as_global_batch_it_is_the_same_run(tmp_path: Path) -> None:
    training = {"micro_batch": 1, "sequence_length": 32}
    by_batch = study(tmp_path, {"global_batch": 256}, training=training)
    by_steps = study(tmp_path, {"gradient_accumulation": 2}, training=training)
    assert [run.run_id for run in by_batch.runs] == [run.run_id for run in by_steps.runs]


def test_hpz_can_be_swept_by_itself(tmp_path: Path) -> None:
    found = study(tmp_path, {"shape": "2x4", "hpz": [2, 4]})
    assert {str(run.shape) for run in found.runs} == {"2x4-hpz2", "2x4-hpz4", "2x4"}


@pytest.mark.parametrize("axis", ["learning_rate", "micro_batch", "attention", "optimizer", "dtype"])
def test_what_a_training_has_can_be_swept(tmp_path: Path, axis: str) -> None:
    values: dict[str, list[Any]] = {
        "learning_rate": [1e-3, 2e-3],
        "micro_batch": [1, 2],
        "attention": ["eager", "sdpa"],
        "optimizer": ["adamw", "adamw-fused"],
        "dtype": ["bf16", "fp32"],
    }
    found = study(tmp_path, {axis: values[axis]})
    assert axis in found.swept and len({run.run_id for run in found.runs}) == 4


def test_a_gpu_has_fused_defaults_and_the_virtual_device_what_it_can_order(tmp_path: Path) -> None:
    cuda, virtual = (study(tmp_path, {"device": device}).runs[0].training for device in ("cuda", "virtual"))
    assert (cuda.attention, cuda.optimizer) == ("sdpa", "adamw-fused")
    assert (virtual.attention, virtual.optimizer) == ("eager", "adamw")


@pytest.mark.parametrize(
    ("block", "words"),
    [
        ({"deepspeed.zero_optimization.stage": [2, 3]}, "stage is the study's to decide: always 3"),
        ({"deepspeed.optimizer.params.lr": [1.0]}, "set training.optimizer, training.learning_rate"),
        ({PREFETCH: ["1e9"]}, "'1e9' is text in YAML, not a number; write 1000000000"),
        ({"deepspeed.": 1}, "names no key of DeepSpeed's JSON"),
        ({"deepspeed.zero_optimization": {"stage": 2}}, "is the study's to decide"),
        ({"global_batch": 100}, "no multiple of micro_batch × sequence_length × ranks"),
        ({"attention": "flash_attention_2"}, "device cpu cannot run 'flash_attention_2'; use device: cuda"),
        ({"device": "virtual", "compile": True}, "a compiled graph hides its ops"),
        ({"device": "virtual", "optimizer": "cpu-adam"}, "its work is none of torch's ops"),
        ({"optimizer": "adam"}, "optimizer"),
        ({"hpz": 3}, "hpz=3 must divide"),
        ({"learning_rates": 1}, "did you mean 'learning_rate'"),
    ],
)
def test_what_cannot_be_swept_is_one_sentence(tmp_path: Path, block: dict[str, Any], words: str) -> None:
    with pytest.raises(HarnessError) as said:
        study(tmp_path, block)
    assert words in str(said.value) and str(tmp_path) in str(said.value)


def test_flash_attention_without_its_package_is_one_sentence() -> None:
    from harness.study import Training, check_attention

    check_attention(Training(attention="sdpa"))
    if find_spec("flash_attn"):
        pytest.skip("flash-attn is installed here")
    with pytest.raises(
        HarnessError, match="needs the package flash-attn, which is not installed here; install"
    ):
        check_attention(Training(attention="flash_attention_2"))


def test_validation_of_text_that_holds_nothing_out_is_refused_as_the_study_is_read(tmp_path: Path) -> None:
    with pytest.raises(HarnessError, match=r"training\.validate_every: nothing is held out of this data"):
        study(tmp_path, {}, training={"validate_every": 5})


def test_a_number_that_yaml_reads_as_text_is_refused_below_deepspeed_too(tmp_path: Path) -> None:
    with pytest.raises(HarnessError, match="stage3_max_live_parameters: '1e9' is text in YAML"):
        study(tmp_path, {}, deepspeed={"zero_optimization": {"stage3_max_live_parameters": "1e9"}})


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        ({"zero_optimisation": {"reduce_bucket_size": 5}}, "did you mean zero_optimization?"),
        (
            {"zero_optimization": {"reduce_bucket_sizes": 5}},
            "did you mean zero_optimization.reduce_bucket_size?",
        ),
        ({"reduce_bucket_size": 5}, "it belongs into zero_optimization"),
    ],
)
def test_a_misspelt_key_of_deepspeeds_is_named_with_the_nearest_right_one(
    tmp_path: Path, keys: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(HarnessError) as refused:
        study(tmp_path, {}, deepspeed=keys)
    assert sentence in str(refused.value)


def test_a_misspelt_key_on_an_axis_is_named_too(tmp_path: Path) -> None:
    with pytest.raises(HarnessError, match=r"did you mean zero_optimization.stage3_prefetch_bucket_size"):
        study(tmp_path, {PREFETCH.replace("prefetch", "prefech"): [10, 20]})
