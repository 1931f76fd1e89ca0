"""What sets the pairs of a study apart beside model, variant, order and seed, in words: for tables and figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from analysis.judge.axes import axis_words

Record = Mapping[str, Any]


def shape_text(shape: Mapping[str, int]) -> str:
    """`2x2-hpz2`, as study files write it."""
    hpz = f"-hpz{shape['hpz']}" if shape["hpz"] > 1 else ""
    return f"{shape['nodes']}x{shape['ranks_per_node']}{hpz}"


def settings(pairs: Sequence[Record]) -> list[str]:
    """For each pair those of its settings in which the pairs differ; empty texts where they differ in none."""
    one_size = len({pair["shape"]["hpz"] for pair in pairs} - {1}) <= 1
    texts = [_words(pair, one_size) for pair in pairs]
    varying = [name for name in texts[0] if len({text[name] for text in texts}) > 1] if texts else []
    return [", ".join(text[name] for name in varying if text[name]) for text in texts]


def _words(pair: Record, one_size: bool) -> dict[str, str]:
    """Each setting in a word; ZeRO-3 has no hpZ size, so that alone sets no pair apart."""
    return {
        "release": pair["release"],
        "device": pair["device"],
        "shape": shape_text(pair["shape"] | {"hpz": 1} if one_size else pair["shape"]),
        "accumulation": f"g={pair['gradient_accumulation']}",
        "timer": "" if pair["throughput_timer"] else "no timer",
        "link": pair["link"] or "",
        "poison": pair["poison"],
        **axis_words(pair["axes"]),
    }
