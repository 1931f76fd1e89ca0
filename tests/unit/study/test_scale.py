"""Toys by one rule: what makes the family stays, and sizes are aligned or not."""

from __future__ import annotations

from typing import Any

import pytest

from harness.study import ModelFile, PublicConfig, load_model_file, parameter_shapes, unaligned_parameters
from harness.study.hugging_face import model_content
from harness.study.scale import scaled
from harness.system.errors import HarnessError
from harness.system.places import REPOSITORY

FOLDER = REPOSITORY / "experiments" / "models"
TOYS = {
    path.stem: load_model_file(path)
    for path in sorted(FOLDER.glob("*.yaml"))
    if "\nscale:" in path.read_text()
}


def config_of(name: str) -> dict[str, Any]:
    return load_model_file(FOLDER / f"{name}.yaml").config.model_dump()


@pytest.mark.parametrize("name", TOYS)
def test_each_shipped_toy_is_what_the_rule_makes_of_its_family(name: str) -> None:
    toy = TOYS[name]
    assert toy.scale is not None and isinstance(toy.config, PublicConfig)
    assert toy.config.model_dump() == scaled(config_of(toy.scale.of), toy.scale.width, toy.scale.unaligned)


@pytest.mark.parametrize("name", [name for name in TOYS if "unaligned" not in name])
def test_eight_ranks_share_an_aligned_toy_equally(name: str) -> None:
    assert unaligned_parameters(TOYS[name], 8) == []


@pytest.mark.parametrize("name", [name for name in TOYS if "unaligned" in name])
def test_four_ranks_cannot_share_most_of_an_unaligned_toy(name: str) -> None:
    toy = TOYS[name]
    assert len(unaligned_parameters(toy, 4)) > len(parameter_shapes(toy)) / 2


def test_at_least_six_families_have_toys_and_two_of_them_experts() -> None:
    families = {toy.config.model_type for toy in TOYS.values()}
    assert len(families) >= 6 and {"mixtral", "qwen3_moe"} < families


@pytest.mark.parametrize("name", ["llama3.1-8b", "qwen3-30b-a3b", "gemma2-9b", "gemma3-1b", "phi3-mini"])
def test_as_many_heads_share_a_key_as_in_the_real_model(name: str) -> None:
    real = config_of(name)
    toy = scaled(real, 64)
    ratio = real["num_attention_heads"] // real["num_key_value_heads"]
    assert toy["num_attention_heads"] // toy["num_key_value_heads"] == ratio


def test_experts_stay_several_with_some_chosen() -> None:
    toy = scaled(config_of("qwen3-30b-a3b"), 64)
    assert (toy["num_experts"], toy["num_experts_per_tok"]) == (8, 2)


def test_a_layer_of_each_kind_stays() -> None:
    kinds = ["sliding_attention"] * 5 + ["full_attention"]
    toy = scaled({**config_of("gemma3-1b"), "layer_types": kinds * 4 + kinds[:2]}, 64)
    assert toy["layer_types"] == ["sliding_attention", "full_attention"] and toy["num_hidden_layers"] == 2


def test_what_is_no_size_stays() -> None:
    real = config_of("gemma2-9b")
    toy = scaled(real, 64)
    same = ("model_type", "attn_logit_softcapping", "final_logit_softcapping", "rms_norm_eps", "hidden_act")
    assert [toy[key] for key in same] == [real[key] for key in same]


def test_a_wider_toy_is_wider() -> None:
    assert scaled(config_of("mistral-7b"), 256)["hidden_size"] == 256


def test_llama_2_and_falcon_scale_too() -> None:
    toy = ModelFile.model_validate(model_content("llama2-7b", width=64))
    assert toy.config.model_type == "llama" and unaligned_parameters(toy, 8) == []


def test_a_configuration_without_sizes_is_refused() -> None:
    with pytest.raises(
        HarnessError,
        match=r"scale: the configuration does not say hidden_size \(or n_embd, n_embed, d_model\)",
    ):
        scaled({"model_type": "new", "vocab_size": 9}, 64)


def test_a_width_that_is_none_is_refused() -> None:
    with pytest.raises(HarnessError, match="scale: 4 is too narrow; give a width of at least 8, as 64"):
        scaled(config_of("gpt2"), 4)
