"""The shape of a transformer, how one rank trains it, and the kernels that PyTorch launches for each of its blocks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from harness.clock.products import Product

Attention = Literal["eager", "flash"]
Checkpointing = Literal["none", "half", "full"]


@dataclass(frozen=True)
class Transformer:
    """The shape of a model; sizes in elements."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    feed_forward: int
    vocabulary: int
    gated: bool = False  # SwiGLU: a third matrix
    rotary: bool = False
    root_mean_square: bool = False  # the norm is written as several kernels
    causal: bool = True
    tied: bool = True  # the head is the embedding

    @property
    def head_size(self) -> int:
        return self.hidden // self.heads

    @property
    def of_block(self) -> int:
        """Parameters of one block."""
        attention = self.hidden * (2 * self.hidden + 2 * self.kv_heads * self.head_size)
        return attention + (3 if self.gated else 2) * self.hidden * self.feed_forward + 2 * self.hidden

    @property
    def tensors_of_block(self) -> int:
        """Parameters as a module counts them: matrices and norms, without gates each with its bias."""
        return 9 if self.gated else 12

    @property
    def parameters(self) -> int:
        embeddings = self.vocabulary * self.hidden * (1 if self.tied else 2)
        return self.layers * self.of_block + embeddings

    def flops_per_token(self, sequence_length: int) -> float:
        """Forward and backward, as model FLOPs are counted: 6 a parameter that multiplies, and attention's own."""
        matrices = self.layers * self.of_block + self.vocabulary * self.hidden
        attention = 12 * self.layers * self.hidden * sequence_length * (0.5 if self.causal else 1.0)
        return 6.0 * matrices + attention


@dataclass(frozen=True)
class Step:
    """How one rank trains, and on what world."""

    model: Transformer
    nodes: int
    ranks_per_node: int
    micro_batch: int
    sequence_length: int
    accumulation: int = 1
    parameters_sharded: bool = True  # gathered for every block, forth and back
    gradients_sharded: bool = True  # reduce-scattered; else all-reduced
    shard_ranks: int = 0  # ranks over which parameters are sharded; 0: all
    secondary_ranks: int = 0  # hpZ: ranks from which the backward pass gathers; 0: as the forward pass
    gather_itemsize: float = 2.0  # bytes of a parameter on the wire: 1 quantised, 4 in single precision
    reduce_itemsize: float = 2.0
    reduce_once: bool = False  # gradients travel after the last micro-batch alone
    checkpointing: Checkpointing = "full"
    attention: Attention = "flash"
    fused: bool = False  # element-wise kernels are joined (torch.compile, Megatron's kernels)
    copies_of_gathers: int = 0  # times a gathered block is copied before it is used
    single_precision_masters: bool = False  # weights are cast to 16 bit before each use (autocast over FP32)
    blocks_ahead: int = 1  # gathers that may run before their block
    pieces_of_block: int = 1  # gathers of one block: DeepSpeed's are of one module each
    quantised_gathers: bool = False  # ZeRO++'s qwZ: what was gathered is turned back into 16 bit
    quantised_reduction: bool = (
        False  # ZeRO++'s qgZ: 4 bits, exchanged inside the node and then between nodes
    )
    views_of_tensor: float = 0.0  # operators without device work that the host runs to gather one tensor
    views_of_rank: float = 0.0  # and those for each rank of its group
    update_bytes: float = 32.0  # that the optimizer moves for a parameter of the shard; Adam alone moves 28

    @property
    def world(self) -> int:
        return self.nodes * self.ranks_per_node

    @property
    def tokens(self) -> int:
        """Of one rank's micro-batch."""
        return self.micro_batch * self.sequence_length


@dataclass(frozen=True)
class Kernel:
    """One kernel of the forward pass; its backward pass moves twice as much and multiplies twice."""

    name: str
    moved: float = 0.0  # bytes of device memory
    product: Product | None = None
    flops: float = 0.0  # of attention


def forward_kernels(step: Step) -> list[Kernel]:
    """The kernels of one block's forward pass, as eager PyTorch launches them (or fused)."""
    model, tokens = step.model, step.tokens
    hidden, wide = tokens * model.hidden, tokens * model.feed_forward
    keys = model.kv_heads * model.head_size
    return [
        *_norm(step, hidden),
        _product("qkv", tokens, model.hidden, model.hidden + 2 * keys),
        *(_elementwise(step, "rotary", tokens * (model.hidden + keys), 5, 24) if model.rotary else ()),
        *_attention(step),
        _product("projection", tokens, model.hidden, model.hidden),
        *_elementwise(step, "residual", hidden, 1, 6),
        *_norm(step, hidden),
        *(_product("up", tokens, model.hidden, model.feed_forward) for _ in range(2 if model.gated else 1)),
        *_elementwise(step, "activation", wide, 2 if model.gated else 1, 10 if model.gated else 4),
        _product("down", tokens, model.feed_forward, model.hidden),
        *_elementwise(step, "residual", hidden, 1, 6),
    ]


def _norm(step: Step, elements: int) -> list[Kernel]:
    if step.model.root_mean_square:
        return _elementwise(step, "norm", elements, 6, 34)
    return _elementwise(step, "norm", elements, 1, 4)


def _elementwise(step: Step, name: str, elements: int, kernels: int, moved: float) -> list[Kernel]:
    """`moved` bytes an element over as many kernels; fused it is read and written once, gates and residuals twice."""
    if step.fused:
        kernels, moved = 1, min(moved, 6.0 if name in ("activation", "residual") else 4.0)
    return [Kernel(name, elements * moved / kernels) for _ in range(kernels)]


def _product(name: str, rows: int, depth: int, columns: int, batch: int = 1) -> Kernel:
    product = Product(batch, rows, depth, columns)
    return Kernel(name, 2.0 * batch * (rows * depth + depth * columns + rows * columns), product)


def _attention(step: Step) -> list[Kernel]:
    model, length = step.model, step.sequence_length
    if step.attention == "flash":
        flops = 4.0 * step.tokens * length * model.hidden * (0.5 if model.causal else 1.0)
        return [
            *_elementwise(step, "split", step.tokens * model.hidden, 1, 12),
            Kernel("attention", 8.0 * step.tokens * model.hidden, flops=flops),
        ]
    batch = step.micro_batch * model.heads
    scores = batch * length * length
    return [
        *_elementwise(step, "split", step.tokens * model.hidden, 3, 12),
        _product("scores", length, model.head_size, length, batch),
        *_elementwise(step, "softmax", scores, 5, 30),
        *_elementwise(step, "dropout", scores, 1, 5),
        _product("values", length, length, model.head_size, batch),
    ]


def backward_kernels(forward: list[Kernel]) -> list[Kernel]:
    """What autograd launches for them, last first."""
    found: list[Kernel] = []
    for kernel in reversed(forward):
        if kernel.product is None:
            found.append(Kernel(kernel.name, 2 * kernel.moved, flops=2.5 * kernel.flops))
            continue
        batch, rows, depth, columns, _ = kernel.product
        found += [
            Kernel(kernel.name, kernel.moved, Product(batch, rows, columns, depth)),
            Kernel(kernel.name, kernel.moved, Product(batch, depth, rows, columns)),
        ]
    return found


def head_kernels(step: Step) -> list[Kernel]:
    """Final norm, logits and loss, forth."""
    model, tokens = step.model, step.tokens
    logits = tokens * model.vocabulary
    return [
        *_norm(step, tokens * model.hidden),
        _product("logits", tokens, model.hidden, model.vocabulary),
        *_elementwise(step, "loss", logits, 3, 18),
    ]


def needed_bytes(step: Step) -> float:
    """Device memory that one rank needs: weights, gradients and Adam's state, activations, and logits.

    Activations of a block after Korthikanti and others 2022, "Reducing Activation Recomputation": 34 bytes a token and
    width, and 5 a score of attention that is not fused.
    """
    model, tokens = step.model, step.tokens
    shards = step.shard_ranks or step.world
    whole = 4.0 if step.single_precision_masters else 2.0
    weights = whole * model.parameters / (shards if step.parameters_sharded else 1)
    gradients = whole * model.parameters / (shards if step.gradients_sharded else 1)
    state = (8.0 if step.single_precision_masters else 12.0) * model.parameters / shards
    secondary = 2.0 * model.parameters / step.secondary_ranks if step.secondary_ranks else 0.0
    live = 2.0 * model.of_block * (1 + step.blocks_ahead) if step.parameters_sharded else 0.0
    block = 34.0 * tokens * model.hidden
    if step.attention == "eager":
        block += 5.0 * step.micro_batch * model.heads * step.sequence_length**2
    kept = {"none": model.layers, "half": model.layers / 2, "full": 1}[step.checkpointing] * block
    inputs = 2.0 * tokens * model.hidden * model.layers
    logits = 8.0 * tokens * model.vocabulary
    return weights + gradients + state + secondary + live + kept + inputs + logits
