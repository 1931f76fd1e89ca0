"""Memory of a rank: activations as autograd saves them in real layers, states as ZeRO shares them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.budget import check_fits, estimate_memory, planned_gpu_hours, rank_hours
from harness.budget.memory import activation_bytes, layer_bytes
from harness.hardware import find_card
from harness.study import ModelFile, Run, Study
from harness.study.models import SHIPPED_MODELS
from harness.system.errors import HarnessError
from harness.system.yaml_file import read_keys

LENGTH, BATCH = 64, 2


def a_study(model: str = "llama2-7b", shape: str = "2x8-hpz8", **training: Any) -> Study:
    return Study.model_validate(
        {
            "name": "sizes",
            "device": "cuda",
            "release": "0.19.8",
            "training": {"steps": 100, "sequence_length": 2048, **training},
            "matrix": {"model": model, "variant": "event", "shape": shape},
            "models": {model: read_keys(SHIPPED_MODELS / f"{model}.yaml", "")},
        }
    )


def a_run(*words: str, **training: Any) -> Run:
    return next(run for run in a_study(*words, **training).runs if run.variant == "event")


def saved_bytes(run: Run, layers: int) -> int:
    """Bytes that autograd saves in a forward pass of transformers' model with that many layers, weights left out."""
    import torch
    from transformers import AutoModelForCausalLM, FalconConfig, LlamaConfig

    file = ModelFile.model_validate(run.model_spec)
    dimensions = file.config.model_dump(exclude={"model_type", "rope_theta"}, exclude_none=True)
    family = LlamaConfig if file.config.model_type == "llama" else FalconConfig
    config = family(**{**dimensions, "num_hidden_layers": layers}, use_cache=False)
    dtype = torch.bfloat16 if run.training.dtype == "bf16" else torch.float32
    model = AutoModelForCausalLM.from_config(
        config, attn_implementation=run.training.attention, torch_dtype=dtype
    ).train()
    held = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    found: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in held:
            found[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    ids = torch.zeros((BATCH, LENGTH), dtype=torch.long)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(input_ids=ids, labels=ids)
    return sum(tensor.untyped_storage().nbytes() for tensor in found.values())


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("dtype", ["bf16", "fp32"])
@pytest.mark.parametrize("model", ["llama2-toy", "falcon-7b-toy", "falcon-40b-toy"])
def test_a_layer_saves_what_autograd_saves_in_transformers(model: str, dtype: str, attention: str) -> None:
    run = a_run(model, "1x2-hpz2", dtype=dtype, attention=attention, sequence_length=LENGTH)
    counted = (saved_bytes(run, 2) - saved_bytes(run, 1)) / (BATCH * LENGTH)
    assert layer_bytes(ModelFile.model_validate(run.model_spec), run) == pytest.approx(counted, rel=0.02)


# Peak beyond weights and gradients of a step's passes, GB: torch 2.11, transformers 5.17 on an H100 80GB HBM3, bf16,
# 2 sequences of 2,048 tokens, 4 layers of the model; without and with activation checkpointing.
PEAKS = {
    ("llama2-7b", "sdpa"): (4.764, 1.842),
    ("llama2-7b", "eager"): (11.686, 4.715),
    ("llama2-70b", "sdpa"): (8.356, 2.670),
    ("llama2-70b", "eager"): (24.026, 9.413),
    ("falcon-7b", "sdpa"): (19.468, 10.537),
    ("falcon-7b", "eager"): (10.720, 5.710),
    ("falcon-40b", "sdpa"): (7.433, 3.603),
    ("falcon-40b", "eager"): (19.588, 10.344),
}


@pytest.mark.parametrize(("model", "attention"), PEAKS)
def test_activations_and_logits_are_what_an_h100_needed(model: str, attention: str) -> None:
    for checkpointing, measured in zip((False, True), PEAKS[model, attention], strict=True):
        run = a_run(model, attention=attention, activation_checkpointing=checkpointing)
        file = ModelFile.model_validate(run.model_spec)
        config = file.config.model_copy(update={"num_hidden_layers": 4})
        logits = 12.0 * config.vocab_size * 2 * 2048
        needed = activation_bytes(file.model_copy(update={"config": config}), run, logits) + logits
        assert needed / 1e9 == pytest.approx(measured, rel=0.05)


def test_states_of_seven_billion_parameters_on_sixteen_ranks() -> None:
    memory, own = estimate_memory(a_run()), 6738415616 / 16
    assert memory.states == pytest.approx((2 + 2 + 12) * own + 2 * 6738415616 / 8)
    assert memory.host == 0


def test_an_offloaded_optimizer_lies_on_the_host() -> None:
    memory = estimate_memory(a_run(optimizer="cpu-adam"))
    assert (memory.optimizer, memory.gradients) == (0, 0)
    assert memory.host == pytest.approx((12 + 2 + 4) * 6738415616 / 16)


@given(
    st.sampled_from(["llama2-7b", "falcon-7b", "falcon-40b", "llama2-70b"]),
    st.integers(1, 8),
    st.sampled_from([1, 2, 4, 8]),
    st.integers(1, 8),
)
def test_more_nodes_a_wider_partition_and_checkpoints_never_need_more(
    model: str, nodes: int, hpz: int, batch: int
) -> None:
    def peak(nodes: int, hpz: int, **training: Any) -> float:
        study = a_study(model, f"{nodes}x8-hpz8", micro_batch=batch, **training)
        run = study.runs[-1]
        return estimate_memory(
            run.model_copy(update={"shape": run.shape.model_copy(update={"hpz": max(hpz, 2)})})
        ).peak

    first = peak(nodes, hpz)
    assert peak(2 * nodes, hpz) < first
    assert peak(nodes, 8) <= first
    assert peak(nodes, hpz, activation_checkpointing=True) <= first
    parts = estimate_memory(a_study(model, micro_batch=batch).runs[-1])
    assert sum(parts.parts().values()) == pytest.approx(parts.peak)


def test_what_does_not_fit_is_named_with_its_limit_and_what_would_fit() -> None:
    study = a_study("llama2-70b", activation_checkpointing=True)
    with pytest.raises(HarnessError) as refused:
        check_fits(study.runs, "a100-sxm-80gb")
    words = str(refused.value)
    assert "llama2-70b in 2x8" in words and "a100-sxm-80gb has 80.0 GB" in words
    assert "the largest parts are optimizer states 51.7 GB" in words
    assert "training.optimizer: cpu-adam, or 4 nodes" in words
    assert "\n" not in words
    check_fits(a_study("llama2-70b", "4x8-hpz8", activation_checkpointing=True).runs, "a100-sxm-80gb")


def test_where_one_change_is_not_enough_several_are_named() -> None:
    study = a_study("llama2-70b", "1x2-hpz2", activation_checkpointing=True)
    with pytest.raises(HarnessError, match=r"no single change is enough; these together are: .*nodes"):
        check_fits(study.runs, "a100-sxm-40gb")


def test_without_a_card_nothing_is_refused_nor_is_a_run_on_the_cpu() -> None:
    study = a_study("llama2-70b", "1x2-hpz2")
    check_fits(study.runs, None)
    check_fits([run.model_copy(update={"device": "cpu"}) for run in study.runs], "a10-24gb")


def test_ranks_that_share_a_card_share_its_memory() -> None:
    runs = a_study("llama2-7b", activation_checkpointing=True).runs
    check_fits(runs, "a100-sxm-80gb", ranks_a_card=4)
    with pytest.raises(HarnessError, match=r"10\.0 GB for each of the 8 ranks that share it"):
        check_fits(runs, "a100-sxm-80gb", ranks_a_card=8)


def test_hours_are_flops_over_what_the_card_is_assumed_to_do() -> None:
    run, card = a_run(), find_card("a100-sxm-80gb")
    half, whole = planned_gpu_hours(run, card, 0.2), planned_gpu_hours(run, card, 0.4)
    assert half == pytest.approx(2 * whole)
    tokens = 100 * run.tokens_per_step
    assert whole == pytest.approx(tokens * 42.9e9 / (0.4 * 312e12) / 3600, rel=0.01)
    assert rank_hours([1.5, 2.5], 16) == pytest.approx(16 * 4 / 3600)
