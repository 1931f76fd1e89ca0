"""Model files: dimensions as published, static shapes equal to the real modules', messages for bad files."""

from __future__ import annotations

from math import prod
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness.study import load_model_file, parameter_shapes, parse_model, unaligned_parameters
from harness.study.models import parameter_count
from harness.system.errors import HarnessError
from harness.system.places import REPOSITORY
from harness.workload.models import build_model

FOLDER = REPOSITORY / "experiments" / "models"
PUBLISHED = {
    "llama2-7b": 6_738_415_616,
    "llama2-13b": 13_015_864_320,
    "llama2-70b": 68_976_648_192,
    "falcon-7b": 6_921_720_704,
    "falcon-40b": 41_303_293_952,
    "llama3.1-8b": 8_030_261_248,
    "llama3.1-70b": 70_553_706_496,
    "llama3.2-1b": 1_235_814_400,
    "mistral-7b": 7_241_732_096,
    "mixtral-8x7b": 46_702_792_704,
    "qwen2.5-7b": 7_615_616_512,
    "qwen3-8b": 8_190_735_360,
    "qwen3-30b-a3b": 30_532_122_624,
    "gemma2-9b": 9_241_705_984,
    "gemma3-1b": 999_885_952,
    "phi3-mini": 3_821_079_552,
    "olmo2-7b": 7_298_617_344,
    "gpt-neox-20b": 20_554_567_680,
    "gpt2": 124_439_808,
}
FAMILIES = ("llama2", "falcon-7b", "falcon-40b")
SHIPPED = sorted(path.stem for path in FOLDER.glob("*.yaml"))


def shipped(name: str) -> Any:
    return load_model_file(FOLDER / f"{name}.yaml")


def content(name: str = "llama2-toy") -> dict[str, Any]:
    return dict(yaml.safe_load((FOLDER / f"{name}.yaml").read_text()))


@pytest.mark.parametrize(("name", "count"), PUBLISHED.items())
def test_real_models_have_the_published_number_of_parameters(name: str, count: int) -> None:
    assert parameter_count(shipped(name)) == count


@pytest.mark.parametrize("name", SHIPPED)
def test_static_shapes_are_those_of_the_transformers_module(name: str) -> None:
    built = build_model(shipped(name), device="meta")
    assert all(parameter.is_meta for parameter in built.parameters())
    assert [(key, tuple(p.shape)) for key, p in built.named_parameters()] == parameter_shapes(shipped(name))


@pytest.mark.parametrize("family", FAMILIES)
def test_toy_models_are_aligned_for_every_laptop_world(family: str) -> None:
    assert all(prod(shape) % 16 == 0 for _, shape in parameter_shapes(shipped(f"{family}-toy")))


@pytest.mark.parametrize("family", FAMILIES)
def test_unaligned_toy_models_are_mostly_unaligned_for_four_ranks(family: str) -> None:
    model = shipped(f"{family}-toy-unaligned")
    assert len(unaligned_parameters(model, 4)) > len(parameter_shapes(model)) / 2


@pytest.mark.parametrize(
    "name", [f"{family}-toy{kind}" for family in FAMILIES for kind in ("", "-unaligned")]
)
def test_toy_models_keep_their_family(name: str) -> None:
    real = {"llama2": "llama2-7b"}.get(name.split("-")[0], "-".join(name.split("-")[:2]))
    toy, big = shipped(name).config, shipped(real).config
    traits = (
        "model_type",
        "new_decoder_architecture",
        "multi_query",
        "parallel_attn",
        "bias",
        "tie_word_embeddings",
    )
    assert [getattr(toy, t, None) for t in traits] == [getattr(big, t, None) for t in traits]


def test_weights_depend_on_the_seed_alone() -> None:
    import torch

    def weights(seed: int) -> torch.Tensor:
        return torch.cat([p.flatten() for p in build_model(shipped("falcon-7b-toy"), seed=seed).parameters()])

    torch.manual_seed(77)
    before = torch.random.get_rng_state()
    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_built_model_trains_with_eager_attention_and_no_cache() -> None:
    built = build_model(shipped("falcon-40b-toy"), dtype="bf16", activation_checkpointing=True)
    assert built.training and built.is_activation_checkpointing
    assert built.config._attn_implementation == "eager" and built.config.use_cache is False
    assert {str(p.dtype) for p in built.parameters()} == {"torch.bfloat16"}


@pytest.mark.parametrize("family", FAMILIES)
def test_activation_checkpointing_changes_no_gradient(family: str) -> None:
    import torch

    tokens = torch.arange(32).reshape(2, 16)

    def gradients(checkpointing: bool) -> list[torch.Tensor]:
        model = build_model(shipped(f"{family}-toy"), activation_checkpointing=checkpointing)
        model(input_ids=tokens, labels=tokens).loss.backward()
        return [p.grad for p in model.parameters()]

    assert all(torch.equal(a, b) for a, b in zip(gradients(True), gradients(False), strict=True))


def test_a_checkpoint_gives_its_weights(tmp_path: Path) -> None:
    import torch

    saved = build_model(shipped("llama2-toy"), seed=3)
    saved.save_pretrained(tmp_path)
    read = build_model(shipped("llama2-toy"), seed=4, checkpoint=str(tmp_path))
    assert all(torch.equal(a, b) for a, b in zip(saved.parameters(), read.parameters(), strict=True))
    assert read.training and read.config._attn_implementation == "eager"


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    build_model(shipped("falcon-7b-toy")).save_pretrained(tmp_path)
    with pytest.raises(HarnessError, match=r"is another model than matrix.model says"):
        build_model(shipped("llama2-toy"), checkpoint=str(tmp_path))


def test_a_checkpoint_that_cannot_be_had_is_named() -> None:
    with pytest.raises(HarnessError, match=r"training.checkpoint: '/no/such/folder' .* give its folder"):
        build_model(shipped("llama2-toy"), checkpoint="/no/such/folder")


def test_a_missing_model_file_is_named() -> None:
    with pytest.raises(
        HarnessError, match=r"nowhere.yaml: cannot be read .* model files lie in experiments/models"
    ):
        load_model_file("nowhere.yaml")


def test_a_model_file_that_is_not_yaml_is_named(tmp_path: Path) -> None:
    (tmp_path / "m.yaml").write_text("a: [1")
    with pytest.raises(HarnessError, match=r"m.yaml: not YAML"):
        load_model_file(tmp_path / "m.yaml")


def test_shapes_that_the_installed_transformers_does_not_make_are_refused() -> None:
    bad = content("gpt2-toy")
    bad["shapes"] = {name.replace("ln_f", "norm_f"): shape for name, shape in bad["shapes"].items()}
    with pytest.raises(
        HarnessError,
        match=r"model: transformers [\d.]+ makes 28 parameters of 165632 .* first differ in "
        r"transformer.ln_f.weight \[64\] and transformer.norm_f.weight \[64\]; write the file anew with hpz model add",
    ):
        build_model(parse_model(bad, "x"), device="meta")


def test_another_attention_can_be_asked_for() -> None:
    built = build_model(shipped("qwen3-toy"), device="meta", attention="sdpa")
    assert built.config._attn_implementation == "sdpa"


def test_an_unknown_key_names_the_nearest_valid_one() -> None:
    bad = content()
    bad["config"]["hiden_size"] = 64
    with pytest.raises(HarnessError, match=r"x: config.hiden_size is not a key; did you mean 'hidden_size'"):
        parse_model(bad, "x")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_size": 66}, "hidden_size=66 must be a multiple of num_attention_heads=4"),
        ({"model_type": "gpt"}, "config: .*'llama', 'falcon' .* `hpz model add` writes a file with shapes"),
        ({"vocab_size": 0}, "config.vocab_size: .*greater than or equal to 1"),
        ({"vocab_size": 513}, "parameters: 166208 stated, but the dimensions under config give 166336"),
    ],
)
def test_bad_dimensions_are_refused(changes: dict[str, Any], message: str) -> None:
    bad = content()
    bad["config"] |= changes
    with pytest.raises(HarnessError, match=message):
        parse_model(bad, "x")


def test_the_new_decoder_needs_its_groups() -> None:
    bad = content("falcon-40b-toy")
    del bad["config"]["num_kv_heads"]
    with pytest.raises(HarnessError, match=r"num_kv_heads is needed with new_decoder_architecture"):
        parse_model(bad, "x")


def test_reading_model_files_needs_no_torch() -> None:
    import subprocess
    import sys

    program = (
        "import sys; from harness.study.models import *; "
        f"parameter_shapes(load_model_file({str(FOLDER / 'llama2-70b.yaml')!r})); "
        "sys.exit(any(name in sys.modules for name in ('torch', 'transformers', 'deepspeed')))"
    )
    assert subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, check=False).returncode == 0
