"""FLOPs by PaLM's formula: what published numbers say, what checkpointing adds, and which weights count."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.budget import hardware_flops_per_token, matrix_parameters, model_flops_per_token
from harness.budget.flops import palm_flops
from harness.hardware import card_called, cards, find_card
from harness.study import ModelFile, Training, load_model_file
from harness.study.models import SHIPPED_MODELS
from harness.system.errors import HarnessError


def shipped(name: str) -> ModelFile:
    return load_model_file(SHIPPED_MODELS / f"{name}.yaml")


def test_an_untied_embedding_is_looked_up_and_a_tied_one_is_the_output_projection() -> None:
    llama, falcon = shipped("llama2-7b"), shipped("falcon-7b")
    embedding, norms = 32000 * 4096, (2 * 32 + 1) * 4096
    assert matrix_parameters(llama) == llama.parameters - embedding - norms
    assert matrix_parameters(falcon) == falcon.parameters - (2 * 32 + 2) * 4544


def test_a_token_of_llama2_7b_needs_6n_and_its_attention() -> None:
    llama = shipped("llama2-7b")
    expected = 6 * matrix_parameters(llama) + 12 * 32 * 4096 * 2048
    assert model_flops_per_token(llama, 2048) == expected
    assert 42e9 < expected < 43e9  # 0.04 TFLOPs a token, as anybody would say of seven billion parameters


def test_the_formula_gives_palms_own_utilisation() -> None:
    """Chowdhery et al. 2022: 540.35 billion weights, 238.3K tokens/s on 6144 chips of 275 TFLOP/s: 46.2 %."""
    flops = palm_flops(540.35e9, layers=118, width=48 * 256, sequence_length=2048)
    assert 238.3e3 * flops / (6144 * 275e12) == pytest.approx(0.462, abs=0.0005)


def test_recomputation_is_counted_as_megatron_counts_it() -> None:
    """Narayanan et al. 2021, equation 3: each layer four times its forward pass, the output projection three times."""
    falcon = shipped("falcon-40b")
    h, layers, s, v = 8192, 60, 2048, 65024
    keys = 2 * 8 * 64 / h  # grouped keys and values are narrower than a GPT's
    by_parts = 8 * layers * h * h * (2 + keys + 8) + 16 * layers * h * s + 6 * h * v
    ours = hardware_flops_per_token(falcon, Training(sequence_length=s, activation_checkpointing=True))
    assert ours == pytest.approx(by_parts, rel=1e-9)


@given(st.sampled_from(["llama2-7b", "falcon-7b", "falcon-40b", "llama2-70b"]), st.integers(2, 8192))
def test_recomputation_adds_less_than_a_third_and_longer_sequences_cost_more(name: str, length: int) -> None:
    model = shipped(name)
    needed = model_flops_per_token(model, length)
    again = hardware_flops_per_token(model, Training(sequence_length=length, activation_checkpointing=True))
    assert needed < again < 4 / 3 * needed
    assert hardware_flops_per_token(model, Training(sequence_length=length)) == needed
    assert model_flops_per_token(model, length + 1) > needed


def test_torchs_names_find_their_card_and_its_peak() -> None:
    found = card_called("NVIDIA H100 80GB HBM3")
    assert found is not None
    name, card = found
    assert (name, card.peak_flops("bf16"), card.peak_flops("fp32")) == ("h100-sxm-80gb", 989e12, 67e12)
    assert card_called("NVIDIA H100 PCIe") != found
    assert card_called("Somebody's Card") is None and card_called(None) is None


def test_no_name_means_two_cards() -> None:
    names = [name for card in cards().values() for name in card.names]
    assert len(names) == len(set(names))


def test_a_card_that_is_not_known_is_refused_with_the_ones_that_are() -> None:
    with pytest.raises(HarnessError, match="did you mean 'a100-sxm-80gb'"):
        find_card("a100-sxm-80")
