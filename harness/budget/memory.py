"""Memory of one rank at the peak of a step under ZeRO-3 and hpZ, by part: an estimate to plan with, not a measurement.

Model states are those of Rajbhandari et al. 2020 (arXiv 1910.02054) as DeepSpeed 0.19 keeps them; activations are the
tensors that autograd saves in transformers' own layers. tests/unit/budget holds them against torch's count and against
peaks of an H100.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from math import prod
from typing import Any

from harness.budget.flops import model_of
from harness.budget.sizes import sizes_of
from harness.study import ModelFile, Run, parameter_shapes
from harness.study.deepspeed_json import value_at

# What DeepSpeed takes where its JSON says nothing (runtime/zero/config.py), in elements.
DEFAULTS = {
    "reduce_bucket_size": 500_000_000,
    "stage3_prefetch_bucket_size": 50_000_000,
    "stage3_max_live_parameters": 1_000_000_000,
    "stage3_max_reuse_distance": 1_000_000_000,
    "sub_group_size": 1_000_000_000,
}
CONTEXT = 1.0e9  # CUDA's context, NCCL's buffers and libraries' workspaces: assumed, they depend on versions
WORDS = {
    "parameters": "parameter shards",
    "gradients": "gradient shards",
    "optimizer": "optimizer states",
    "secondary": "secondary shards",
    "gathered": "gathered parameters",
    "buckets": "buckets of the reduce-scatter",
    "activations": "activations",
    "logits": "logits",
    "step": "temporaries of the optimizer step",
    "context": "CUDA context and NCCL",
}


@dataclass(frozen=True)
class Memory:
    """Bytes of one rank. `step` takes the place of what the backward pass needs, where that is less."""

    parameters: float  # in the training's dtype, one shard
    gradients: float  # accumulated, one shard
    optimizer: float  # single-precision master and both moments, one shard; 0 where the host holds them
    secondary: float  # hpZ's copy, one shard of `hpz`
    gathered: float  # whole parameters that are in use, fetched ahead or kept, and one whole gradient
    buckets: float
    activations: float
    logits: float
    step: float
    context: float
    host: float  # on the host, where the optimizer is offloaded

    @property
    def peak(self) -> float:
        """The most that the card must hold at a time."""
        passes = self.gathered + self.activations + self.logits
        return self.states + self.buckets + self.context + max(passes, self.step)

    @property
    def states(self) -> float:
        """What stays between steps."""
        return self.parameters + self.gradients + self.optimizer + self.secondary

    def parts(self) -> dict[str, float]:
        """The parts that make up the peak, the largest first."""
        late = self.step > self.gathered + self.activations + self.logits
        left_out = {"host", *(("gathered", "activations", "logits") if late else ("step",))}
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        found = {name: value for name, value in values.items() if value and name not in left_out}
        return dict(sorted(found.items(), key=lambda item: -item[1]))


def estimate_memory(run: Run) -> Memory:
    """The memory of one rank of a run; what its DeepSpeed JSON leaves open is as DeepSpeed has it."""
    model, training, shape = model_of(run), run.training, run.shape
    size, half = _element(run), training.dtype == "bf16"
    count, own = model.parameters, model.parameters / shape.world_size
    zero = {**DEFAULTS, **run.deepspeed.get("zero_optimization", {})}
    offloaded = _offloaded(run)
    gradient = 4 if value_at(run.deepspeed, "data_types.grad_accum_dtype") == "fp32" else size
    # Where everything is in single precision, the shard is its own master.
    states = own * (8 + (4 if half else 0))
    tokens = training.micro_batch * training.sequence_length
    logits = 12.0 * model.config.vocab_size * tokens  # saved log-softmax, its gradient and the logits', fp32
    activations = activation_bytes(model, run, logits)
    return Memory(
        parameters=size * own,
        gradients=0 if offloaded else gradient * own,
        optimizer=0 if offloaded else states,
        secondary=size * count / shape.hpz if shape.hpz > 1 else 0,
        gathered=size * _gathered(model, zero),
        buckets=2.0 * size * min(zero["reduce_bucket_size"], count),  # the bucket and its scattered copy
        activations=activations,
        logits=logits,
        step=0 if offloaded else _step_bytes(run, min(zero["sub_group_size"], own)),
        context=CONTEXT,
        host=states + (gradient + 4) * own if offloaded else 0,
    )


def activation_bytes(model: ModelFile, run: Run, logits: float) -> float:
    """What is saved of a micro-batch, and what the backward pass of a layer needs beyond the room of the logits.

    The logits are gone when the last layer's backward pass begins; with checkpointing it computes its layer again.
    """
    sizes = sizes_of(model)
    training, size = run.training, _element(run)
    layer, working = layer_bytes(model, run), working_bytes(model, run)
    boundary = size * sizes.hidden
    norm = (4 + 2 * size if sizes.gated else 2 * size) * sizes.hidden  # the last one, before the logits
    tokens, layers = training.micro_batch * training.sequence_length, sizes.layers
    saved = layers * (boundary if training.activation_checkpointing else layer)
    working += layer if training.activation_checkpointing else 0
    return float(tokens * (saved + norm) + max(tokens * (working - norm) - logits, 0))


def layer_bytes(model: ModelFile, run: Run) -> float:
    """Bytes a token that autograd saves in one decoder layer without checkpointing, weights left out."""
    sizes, size = sizes_of(model), _element(run)
    attention, length = run.training.attention, run.training.sequence_length
    hidden, width, scores = sizes.hidden, sizes.attention, sizes.heads * length
    if sizes.gated:
        # Each norm computes in single precision and keeps that beside its own result twice; so does an eager softmax.
        outside = 2 * (4 + 2 * size) * hidden + 4 * size * sizes.feed_forward
        if attention == "eager":
            return float(outside + 4 * size * width + (4 + size if size < 4 else 4) * scores)
        return float(outside + 2 * size * (width + sizes.key_heads * sizes.head))
    # Falcon, GPT-NeoX, GPT-2: a plain feed-forward, beside the attention or after it, under one norm or two.
    norms = 1 if _one_key_head(model) else 2
    outside = (1 + norms) * size * hidden + 2 * size * sizes.feed_forward
    if attention == "eager":
        return float(outside + 4 * size * width + size * scores)
    if _unfused(model, run):
        return float(outside + (3 * 4 + size) * width + 4 * scores)
    mask = size * length if attention == "sdpa" else 0
    return float(outside + 4 * size * width + mask)


def working_bytes(model: ModelFile, run: Run) -> float:
    """Bytes a token that the backward pass of one layer needs for gradients, at its peak (measured on an H100)."""
    sizes, size, eager = sizes_of(model), _element(run), run.training.attention == "eager"
    scores = sizes.heads * run.training.sequence_length
    if sizes.gated:
        feed_forward = size * (3 * sizes.feed_forward + sizes.hidden)
        return float(max(8 * scores if eager else 0, feed_forward))
    attention = 3 * size * scores if eager else 12 * scores if _unfused(model, run) else 0
    return float(attention + 2 * size * sizes.feed_forward)


def _one_key_head(model: ModelFile) -> bool:
    """Falcon 7B's decoder: one key head for all, attention and feed-forward side by side under one norm."""
    return model.config.model_type == "falcon" and sizes_of(model).key_heads == 1


def _unfused(model: ModelFile, run: Run) -> bool:
    """No fused kernel takes a single key head, and torch's own way is in single precision."""
    return _one_key_head(model) and run.training.attention == "sdpa"


def _gathered(model: ModelFile, zero: dict[str, Any]) -> float:
    """Elements: the largest parameter and its gradient, what is fetched ahead of it, and what is kept for reuse."""
    largest = max(prod(shape) for _, shape in parameter_shapes(model))
    ahead = min(zero["stage3_prefetch_bucket_size"], zero["stage3_max_live_parameters"])
    kept = largest + ahead + zero["stage3_max_reuse_distance"]
    return float(largest + min(model.parameters, kept))


def _step_bytes(run: Run, elements: float) -> float:
    """Single-precision gradients of one sub-group, and what an optimizer that is not fused makes of them."""
    return elements * (12 if run.training.optimizer == "adamw" else 4)


def _offloaded(run: Run) -> bool:
    device = value_at(run.deepspeed, "zero_optimization.offload_optimizer.device")
    return device not in (None, "none")


def _element(run: Run) -> int:
    return 2 if run.training.dtype == "bf16" else 4
