"""Floating-point operations of a training, by the formulas that the field quotes.

Model FLOPs a token are PaLM's 6·N + 12·L·H·Q·S (Chowdhery et al. 2022, arXiv 2204.02311, appendix B), which do not know
of recomputation; hardware FLOPs add what activation checkpointing computes again (Narayanan et al. 2021, arXiv
2104.04473, and Korthikanti et al. 2022, arXiv 2205.05198). An addition and a multiplication are two.
"""

from __future__ import annotations

import re
from math import prod

from harness.budget.sizes import sizes_of
from harness.study import ModelFile, Run, Training, parameter_shapes, parse_model

CONVENTION = (
    "Model FLOPs a token: 6·N + 12·L·H·Q·S (PaLM, appendix B), forward and backward. N: weights of matrices that "
    "multiply every token, the output projection included (a tied embedding counts once, as that); the look-up in an "
    "untied embedding and norms are left out; of experts, those that a token meets. L layers, H heads of size Q, "
    "sequence length S: attention in full, the causal half not taken off. Hardware FLOPs add the second forward pass "
    "of the layers where activations are checkpointed. MFU and HFU are these over the card's dense peak."
)

LOOKED_UP = re.compile(r"(?:embed_tokens|embed_in|word_embeddings|wte)\.weight$")
POSITIONS = re.compile(r"(?:wpe|embed_positions|position_embeddings)\.weight$")
EXPERTS = re.compile(r"\bexperts\b")


def model_of(run: Run) -> ModelFile:
    """The model file that a run was resolved with."""
    return parse_model(run.model_spec, f"model {run.model}")


def matrix_parameters(model: ModelFile) -> float:
    """N of the formula: weights that multiply every token (see CONVENTION)."""
    sizes = sizes_of(model)
    return sum(
        float(prod(shape)) * (sizes.active_experts if EXPERTS.search(name) else 1.0)
        for name, shape in parameter_shapes(model)
        if len(shape) > 1 and not POSITIONS.search(name) and (sizes.tied or not LOOKED_UP.search(name))
    )


def output_parameters(model: ModelFile) -> int:
    """Weights of the output projection, which no checkpoint computes again."""
    sizes = sizes_of(model)
    return sizes.vocabulary * sizes.hidden


def model_flops_per_token(model: ModelFile, sequence_length: int) -> float:
    """FLOPs that one token of a sequence of `sequence_length` needs, forward and backward."""
    sizes = sizes_of(model)
    return palm_flops(matrix_parameters(model), sizes.layers, sizes.attention, sequence_length)


def palm_flops(weights: float, layers: int, width: int, sequence_length: int) -> float:
    """PaLM's formula itself: N, L, H·Q and S."""
    return 6 * weights + 12 * layers * width * sequence_length


def hardware_flops_per_token(model: ModelFile, training: Training) -> float:
    """FLOPs that one token really takes: with checkpointing every layer's forward pass, a third of it, once more."""
    needed = model_flops_per_token(model, training.sequence_length)
    if not training.activation_checkpointing:
        return needed
    return needed + (needed - 6 * output_parameters(model)) / 3


def step_flops(run: Run) -> float:
    """Model FLOPs of one optimizer step over all ranks."""
    return run.tokens_per_step * model_flops_per_token(model_of(run), run.training.sequence_length)
