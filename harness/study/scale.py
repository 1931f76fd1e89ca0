"""Toys of any model by one rule: its family's structure at a small width, aligned to every small world or to none.

What makes the family stays: how many heads share a key, the ratio of heads to hidden size and that of feed-forward to
hidden size, experts and routing, windows, one layer of each kind, biases, norms, tied embeddings, and every key that is
no size. Aligned, all sizes divide by 8, so that the old copy is right on up to 8 ranks and only the order can fail.
Unaligned, they are odd wherever the family lets them (so are the heads of a key, then), so that on 4 ranks the old copy
loses elements.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import lcm
from typing import Any

from harness.system.errors import HarnessError

Config = dict[str, Any]  # keys of a public Hugging Face configuration

# Families name the same size differently.
HIDDEN = ("hidden_size", "n_embd", "n_embed", "d_model")
HEADS = ("num_attention_heads", "n_head", "n_heads", "num_heads")
KEY_HEADS = ("num_key_value_heads", "num_kv_heads")
LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
POSITIONS = ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len")
FEED_FORWARD = (
    *("intermediate_size", "moe_intermediate_size", "shared_expert_intermediate_size"),
    *("n_inner", "ffn_hidden_size", "ffn_dim"),
)
EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts")

VOCABULARY, LENGTH, WINDOW, MOST_LAYERS = 512, 512, 16, 2  # tokens, tokens, tokens, layers
MOST_EXPERTS, MOST_CHOSEN = 8, 2
UNIT = 8  # what all sizes of an aligned toy divide by


def scaled(config: Mapping[str, Any], width: int, unaligned: bool = False) -> Config:
    """The configuration of a toy: heads of together about `width`, `MOST_LAYERS` layers unless more kinds need more.

    Raises HarnessError where the configuration does not say its sizes.
    """
    if width < UNIT:
        raise HarnessError(f"scale: {width} is too narrow; give a width of at least {UNIT}, as 64")
    toy = dict(config)
    hidden, heads = _size(config, HIDDEN), _size(config, HEADS)
    key_heads = next((int(config[key]) for key in KEY_HEADS if config.get(key)), heads)
    of_head = int(config.get("head_dim") or hidden // heads)
    groups = _groups(heads // key_heads, unaligned)
    toy_keys = _key_heads(key_heads, groups, unaligned)
    toy_heads = toy_keys * groups
    step, first = (4, 6) if unaligned else (UNIT, UNIT)  # 6, 10, 14 …: even, as rotary positions need
    toy_of_head = first + step * max(0, -(-(width - first * toy_heads) // (step * toy_heads)))
    toy_hidden = toy_heads * toy_of_head
    if config.get("head_dim"):  # only then need heads and hidden size not agree
        # Yet transformers wants the one a multiple of the other.
        unit = toy_heads if unaligned else lcm(UNIT, toy_heads)
        toy_hidden = _rounded(toy_hidden * hidden / (heads * of_head), unaligned, unit)
        toy["head_dim"] = toy_of_head
    _set(toy, HIDDEN, toy_hidden)
    _set(toy, HEADS, toy_heads)
    _set(toy, KEY_HEADS, toy_keys)
    for key in FEED_FORWARD:
        if isinstance(toy.get(key), int):
            toy[key] = _rounded(toy[key] * toy_hidden / hidden, unaligned)
        elif isinstance(toy.get(key), list):  # one for each layer
            toy[key] = [_rounded(size * toy_hidden / hidden, unaligned) for size in toy[key]]
    if (
        unaligned and "n_inner" in toy and toy["n_inner"] is None
    ):  # four times an even size, unless it is said
        toy["n_inner"] = _rounded(4 * toy_hidden, unaligned)
    _set_experts(toy, unaligned)
    _set_layers(toy)
    _set_tokens(toy, unaligned)
    if toy.get("query_pre_attn_scalar"):
        toy["query_pre_attn_scalar"] = toy_of_head
    return toy


def _groups(groups: int, unaligned: bool) -> int:
    """Heads that share one key; unaligned, the next lower odd number, but still several where there were several."""
    return groups if groups % 2 or not unaligned else max(3, groups - 1)


def _key_heads(key_heads: int, groups: int, unaligned: bool) -> int:
    """One for multi-query; else few, so that with their groups of queries they are no more than needed."""
    if key_heads == 1:
        return 1
    if groups > 1:
        return 3 if unaligned else 2
    return 7 if unaligned else 4


def _set_experts(toy: Config, unaligned: bool) -> None:
    for key in EXPERTS:
        if toy.get(key):
            toy[key] = min(toy[key], MOST_EXPERTS) - int(unaligned)
    if toy.get("mlp_only_layers"):
        toy["mlp_only_layers"] = [layer for layer in toy["mlp_only_layers"] if layer < MOST_LAYERS]
    if toy.get("num_experts_per_tok"):
        toy["num_experts_per_tok"] = min(toy["num_experts_per_tok"], MOST_CHOSEN)


def _set_layers(toy: Config) -> None:
    """The first layer of each kind that the configuration lists, and as many more as make two."""
    layers = _size(toy, LAYERS)
    kinds = toy.get("layer_types") or [None] * layers
    firsts = {kind: layer for layer, kind in reversed(list(enumerate(kinds)))}.values()
    others = [layer for layer in range(layers) if layer not in firsts]
    kept = sorted([*firsts, *others[: max(0, MOST_LAYERS - len(firsts))]])
    for key, value in toy.items():
        if isinstance(value, list) and len(value) == layers:  # something of each layer
            toy[key] = [value[layer] for layer in kept]
    _set(toy, LAYERS, len(kept))
    for key in ("sliding_window_pattern", "first_k_dense_replace", "max_window_layers"):
        if toy.get(key):
            toy[key] = min(toy[key], {"sliding_window_pattern": 2}.get(key, 1))


def _set_tokens(toy: Config, unaligned: bool) -> None:
    toy["vocab_size"] = VOCABULARY + 3 * int(unaligned)
    positions = next((int(toy[key]) for key in POSITIONS if toy.get(key)), LENGTH)
    _set(toy, POSITIONS, min(positions, LENGTH) - int(unaligned))
    rope, before = toy.get("rope_scaling"), "original_max_position_embeddings"
    if isinstance(rope, Mapping) and rope.get(
        before
    ):  # tokens of the training before positions were stretched
        toy["rope_scaling"] = {**rope, before: max(1, LENGTH * rope[before] // positions)}
    if toy.get("sliding_window"):
        toy["sliding_window"] = WINDOW  # shorter than a sequence of a laptop's study, so that it counts


def _rounded(size: float, unaligned: bool, unit: int | None = None) -> int:
    """Aligned, the nearest multiple of the unit (`UNIT`); else the next lower odd multiple of it (1)."""
    if unaligned:
        unit = unit or 1
        return max(1, (int(size / unit) - 1) // 2 * 2 + 1) * unit
    unit = unit or UNIT
    return max(1, round(size / unit)) * unit


def _size(config: Mapping[str, Any], names: tuple[str, ...]) -> int:
    found = next((config[name] for name in names if config.get(name)), None)
    if not isinstance(found, int):
        raise HarnessError(
            f"scale: the configuration does not say {names[0]} (or {', '.join(names[1:])}); "
            "write the toy's own config.json and name that"
        )
    return found


def _set(toy: Config, names: tuple[str, ...], size: int) -> None:
    for name in names:
        if toy.get(name):
            toy[name] = size
