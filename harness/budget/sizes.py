"""The sizes of a model that FLOPs and memory follow from, whatever its family calls them in its configuration."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from harness.study import ModelFile, parameter_shapes
from harness.system.errors import HarnessError

OUTPUT = re.compile(r"(?:lm_head|embed_out)\.weight$")
GATE = re.compile(r"gate_(?:up_)?proj|experts\.\d+\.w1\b")


@dataclass(frozen=True)
class Sizes:
    """Of one model; `feed_forward` is what a token meets, of experts those that it is sent to."""

    layers: int
    hidden: int
    heads: int
    head: int  # of one head
    key_heads: int
    feed_forward: int
    vocabulary: int
    tied: bool  # the output projection is the embedding
    gated: (
        bool  # three matrices under root-mean-square norms, as Llama and its kin; else two under layer norms
    )
    experts: int  # 0: none
    experts_a_token: int

    @property
    def attention(self) -> int:
        """H·Q: what all heads are wide together."""
        return self.heads * self.head

    @property
    def active_experts(self) -> float:
        """The share of experts that a token meets; 1 for dense models."""
        return self.experts_a_token / self.experts if self.experts else 1.0


def sizes_of(model: ModelFile) -> Sizes:
    """Read the sizes by the names that public configurations have for them. HarnessError where one is missing."""
    config: dict[str, Any] = model.config.model_dump()
    names = [name for name, _ in parameter_shapes(model)]

    def first(*keys: str, default: int | None = None) -> int:
        found = next((config[key] for key in keys if config.get(key) is not None), default)
        if found is None:
            raise HarnessError(
                f"config: none of {', '.join(keys)} is there, which FLOPs and memory follow from"
            )
        return int(found)

    hidden = first("hidden_size", "n_embd", "n_embed", "d_model")
    heads = first("num_attention_heads", "n_head", "n_heads")
    experts = first("num_local_experts", "num_experts", "n_routed_experts", default=0)
    a_token = first("num_experts_per_tok", "top_k", default=1)
    wide = first("ffn_hidden_size", "intermediate_size", "n_inner", "ffn_dim", default=4 * hidden)
    if experts:
        wide = a_token * first("moe_intermediate_size", default=wide)
    multi_query = config.get("multi_query") and not config.get("new_decoder_architecture")
    key_heads = 1 if multi_query else first("num_key_value_heads", "num_kv_heads", default=heads)
    return Sizes(
        layers=first("num_hidden_layers", "n_layer", "n_layers"),
        hidden=hidden,
        heads=heads,
        head=_latent_head(config) or first("head_dim", default=hidden // heads),
        key_heads=key_heads,
        feed_forward=wide,
        vocabulary=model.config.vocab_size,
        tied=not any(OUTPUT.search(name) for name in names),
        gated=any(GATE.search(name) for name in names),
        experts=experts,
        experts_a_token=a_token,
    )


def _latent_head(config: dict[str, Any]) -> int | None:
    """Of DeepSeek's latent attention the mean width of the two products: queries by keys, and weights by values."""
    parts = [int(config.get(key) or 0) for key in ("qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim")]
    return sum(parts) // 2 if all(parts) else None
