"""Sizes are read whatever a family calls them; N of the published models is what is known of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.budget.flops import matrix_parameters, model_flops_per_token
from harness.budget.memory import estimate_memory
from harness.budget.sizes import sizes_of
from harness.study import ModelFile, load_model_file, load_study
from harness.study.models import SHIPPED_MODELS
from harness.system.errors import HarnessError

ALL = sorted(file.stem for file in SHIPPED_MODELS.glob("*.yaml"))


def shipped(name: str) -> ModelFile:
    return load_model_file(SHIPPED_MODELS / f"{name}.yaml")


@pytest.mark.parametrize(
    ("name", "layers", "attention", "key_heads", "tied", "gated"),
    [
        ("gpt2", 12, 768, 12, True, False),
        ("gpt-neox-20b", 44, 6144, 64, False, False),
        ("falcon-7b", 32, 4544, 1, True, False),
        ("falcon-40b", 60, 8192, 8, True, False),
        ("llama3.1-8b", 32, 4096, 8, False, True),
        ("gemma2-9b", 42, 4096, 8, True, True),
        ("phi3-mini", 32, 3072, 32, False, True),
        ("mixtral-8x7b", 32, 4096, 8, False, True),
        ("qwen3-30b-a3b", 48, 4096, 4, False, True),
    ],
)
def test_sizes_are_read_by_every_familys_names(
    name: str, layers: int, attention: int, key_heads: int, tied: bool, gated: bool
) -> None:
    sizes = sizes_of(shipped(name))
    assert (sizes.layers, sizes.attention, sizes.key_heads) == (layers, attention, key_heads)
    assert (sizes.tied, sizes.gated) == (tied, gated)


@pytest.mark.parametrize(("name", "active"), [("mixtral-8x7b", 12.9e9), ("qwen3-30b-a3b", 3.3e9)])
def test_of_experts_those_count_that_a_token_meets(name: str, active: float) -> None:
    """The published numbers of active parameters hold the look-up in the embedding, which multiplies nothing."""
    model = shipped(name)
    embedding = sizes_of(model).vocabulary * sizes_of(model).hidden
    assert matrix_parameters(model) + embedding == pytest.approx(active, rel=0.02)


@pytest.mark.parametrize("name", ALL)
def test_every_shipped_model_has_flops_and_an_estimate_of_memory(name: str, tmp_path: Path) -> None:
    model = shipped(name)
    assert model_flops_per_token(model, 64) > 6 * matrix_parameters(model) > 0
    file = tmp_path / "study.yaml"
    file.write_text(
        f"name: any\ndevice: cuda\nmatrix: {{model: {name}, variant: event, shape: 2x8-hpz8, micro_batch: 1}}\n"
    )
    memory = estimate_memory(load_study(file).runs[-1])
    assert memory.peak > memory.states > 0


def test_a_configuration_without_a_size_is_one_sentence() -> None:
    model = shipped("gpt2")
    keys = {key: value for key, value in model.config.model_dump().items() if key != "n_layer"}
    without = model.model_copy(update={"config": type(model.config).model_validate(keys)})
    with pytest.raises(HarnessError, match="none of num_hidden_layers, n_layer, n_layers is there"):
        sizes_of(without)
