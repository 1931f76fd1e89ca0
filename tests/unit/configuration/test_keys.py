"""A key that DeepSpeed does not know is named with the nearest one; values are as DeepSpeed takes them."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest

from harness.configuration.keys import checked, sections
from harness.system.errors import HarnessError
from harness.system.places import cache_folder
from harness.variants import supported_releases


def zero(**keys: Any) -> dict[str, Any]:
    return {"zero_optimization": {"stage": 3, **keys}}


@pytest.mark.parametrize(
    ("written", "taken"),
    [
        ({"stage": "3"}, {"stage": 3}),
        ({"zero_hpz_partition_size": "8"}, {"zero_hpz_partition_size": 8}),
        ({"zero_hpz_partition_size": 8.0}, {"zero_hpz_partition_size": 8}),
        ({"reduce_bucket_size": 5e7}, {"reduce_bucket_size": 50_000_000}),
        ({"overlap_comm": "true"}, {"overlap_comm": True}),
        ({"overlap_comm": "False"}, {"overlap_comm": False}),
        ({"prefetch_bucket_size": 5}, {"stage3_prefetch_bucket_size": 5}),
        ({"offload_param": None}, {"offload_param": None}),
        ({"reduce_bucket_size": "auto"}, {"reduce_bucket_size": "auto"}),
    ],
)
def test_values_are_taken_as_deepspeed_takes_them(written: dict[str, Any], taken: dict[str, Any]) -> None:
    found = checked(zero(**written))
    assert found.config == zero(**taken)
    assert not found.remarks


@pytest.mark.parametrize(
    ("config", "kind", "sentence"),
    [
        (zero(zero_hpz_partion_size=8), "refused", "did you mean zero_optimization.zero_hpz_partition_size?"),
        (zero(hpz_partition_size=8), "refused", "did you mean zero_optimization.zero_hpz_partition_size?"),
        (zero(overlap_com=True), "refused", "did you mean zero_optimization.overlap_comm?"),
        (
            zero(zero_hpz_partition_sizes=8),
            "refused",
            "did you mean zero_optimization.zero_hpz_partition_size?",
        ),
        (
            zero(offload_optimizer={"devise": "cpu"}),
            "refused",
            "did you mean zero_optimization.offload_optimizer.device?",
        ),
        (zero(train_batch_size=8), "refused", "it belongs to the top level"),
        (
            {"zero_hpz_partition_size": 8},
            "ignored",
            "at the top level, where DeepSpeed ignores it; it belongs into zero_optim",
        ),
        ({"overlap_comm": True}, "ignored", "it belongs into zero_optimization"),
        ({"zero_optimisation": {"stage": 3}}, "ignored", "did you mean zero_optimization?"),
        ({"train_micro_batch_size_per_gpus": 1}, "ignored", "did you mean train_micro_batch_size_per_gpu?"),
        ({"gradient_accumulation_step": 1}, "ignored", "did you mean gradient_accumulation_steps?"),
        (zero(reduce_bucket_size="5e7"), "refused", "is the text '5e7'"),
        (zero(cpu_offload=True), "legacy", "read as that"),
        ({"zero_optimization": True}, "legacy", "it means stage 1"),
        ({"bfloat16": {"enabled": True}}, "legacy", "old name of bf16"),
    ],
)
def test_what_is_odd_is_said(config: dict[str, Any], kind: str, sentence: str) -> None:
    (remark,) = checked(config, "0.19.8").remarks
    assert remark.kind == kind
    assert sentence in remark.text


def test_a_refused_key_is_read_as_it_is_meant_and_an_ignored_one_is_left_out() -> None:
    assert checked(zero(zero_hpz_partion_size=8)).config == zero(zero_hpz_partition_size=8)
    assert checked({**zero(), "zero_hpz_partition_size": 8}).config == zero()


def test_old_forms_of_offloading_are_read_as_todays() -> None:
    found = checked(zero(cpu_offload=True, cpu_offload_param=True)).config["zero_optimization"]
    assert found == {"stage": 3, "offload_optimizer": {"device": "cpu"}, "offload_param": {"device": "cpu"}}


def test_a_release_is_asked_whether_it_knows_a_key() -> None:
    hpz, mics = zero(zero_hpz_partition_size=8), zero(mics_shard_size=8)
    assert "came with 0.10.0; 0.9.5 refuses it" in checked(hpz, "0.9.5").remarks[0].text
    assert not checked(hpz, "0.10.0").remarks
    assert "was taken out after 0.19.6" in checked(mics, "0.19.8").remarks[0].text
    assert not checked(mics, "0.12.6").remarks


def test_before_0_17_1_an_unknown_key_of_bf16_was_ignored() -> None:
    config = {"bf16": {"enabled": True, "loss_scale": 0}}
    assert [checked(config, release).remarks[0].kind for release in ("0.16.9", "0.17.1")] == [
        "ignored",
        "refused",
    ]


def test_comments_in_keys_are_left_alone() -> None:
    assert not checked({"_comment": "mine", "//": "yours", "train_batch_size": 8}).remarks


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        (
            {"zero_optimization": {"offload_param": "cpu"}},
            "config: zero_optimization.offload_param must be an object",
        ),
        ({"bf16": True}, "config: bf16 must be an object, not True"),
        (
            zero(zero_hpz_partition_size=8.5),
            "config: zero_optimization.zero_hpz_partition_size=8.5 must be a whole number",
        ),
        (
            zero(overlap_comm="perhaps"),
            "config: zero_optimization.overlap_comm='perhaps' must be true or false",
        ),
    ],
)
def test_a_value_of_no_use_is_refused_with_its_key(config: dict[str, Any], sentence: str) -> None:
    with pytest.raises(HarnessError, match=sentence):
        checked(config)


MODELS = {
    # Section → where DeepSpeed describes it.
    "zero_optimization": ("runtime/zero/config.py", "DeepSpeedZeroConfig"),
    "zero_optimization.offload_param": ("runtime/zero/offload_config.py", "DeepSpeedZeroOffloadParamConfig"),
    "zero_optimization.offload_optimizer": (
        "runtime/zero/offload_config.py",
        "DeepSpeedZeroOffloadOptimizerConfig",
    ),
    "bf16": ("runtime/precision_config.py", "DeepSpeedBF16Config"),
    "fp16": ("runtime/precision_config.py", "DeepSpeedFP16Config"),
    "timers.throughput": ("utils/config.py", "DeepSpeedThroughputTimerConfig"),
}


@pytest.mark.parametrize("release", supported_releases())
def test_the_table_is_what_the_sources_have(release: str) -> None:
    """Of every release whose sources are at hand."""
    package = cache_folder() / "releases" / release / "deepspeed"
    if not package.is_dir():
        pytest.skip("the sources of this release are not at hand; `make releases` fetches them")
    for path, (file, name) in MODELS.items():
        fields = _fields(package / file, name)
        known = {key for key, one in sections()[path].keys.items() if not one.absent(release)}
        assert not fields or fields == known


def _fields(file: Path, name: str) -> set[str]:
    """The keys of a model of settings, by their aliases; none where the release has no such model."""
    tree = ast.parse(file.read_text()) if file.is_file() else ast.Module([], [])
    classes = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef) and node.name == name]
    return {_key(node) for found in classes for node in found.body if isinstance(node, ast.AnnAssign)}


def _key(node: ast.AnnAssign) -> str:
    words = node.value.keywords if isinstance(node.value, ast.Call) else []
    alias = [
        word.value.value for word in words if word.arg == "alias" and isinstance(word.value, ast.Constant)
    ]
    return str(alias[0]) if alias else ast.unparse(node.target)
