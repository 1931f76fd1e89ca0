"""Numbers that people posted, retyped: ordinary curves that were taken for faults, or stood beside them."""

from __future__ import annotations

from typing import Any


def rows(losses: list[float], norms: list[float] | None = None, every: int = 1) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = [
        {"step": every * (index + 1), "loss": loss} for index, loss in enumerate(losses)
    ]
    for row, norm in zip(found, norms or [], strict=False):
        row["grad_norm"] = norm
    return found


HEALTHY: dict[str, list[dict[str, Any]]] = {
    "deepspeedai/DeepSpeed#5216": rows(
        [2.0731, 2.0288, 1.927, 1.8347, 1.8347, 1.7896, 1.602, 1.766, 1.8751, 1.6776]
    ),
    "huggingface/transformers#28391, without offload": rows(
        [0.6931, 0.6833, 0.6762, 0.6624, 0.653, 0.7168, 0.6631]
    ),
    "huggingface/transformers#35438, one micro-batch": rows(
        [10.5949, 8.2312, 7.8988, 8.0197, 6.0704, 5.8247],
        [188.2905, 87.7367, 74.3566, 52.9131, 51.5788, 56.0561],
    ),
    "deepspeedai/DeepSpeed#966, stage 2": rows(
        [1.2305, 1.5332, 1.3779, 1.3135, 1.2207, 1.4629, 1.2637, 1.2344, 1.3926]
    ),
    "hiyouga/LlamaFactory#4850, its beginning": rows(
        [1.6228, 1.6573, 1.6861, 1.677, 1.691], [9.3055, 6.6878, 9.8919, 8.5338, 8.1], every=10
    ),
    "deepspeedai/DeepSpeed#7965, stage 3": rows([11.201, 11.1657, 11.2045, 11.1214, 11.1, 11.05]),
    "deepspeedai/DeepSpeed#5523": rows(
        [2.0, 1.5547, 0.5781, 0.3184, 0.1318, 0.0859], [20.7871, 59.3107, 15.006, 9.6975, 6.1789, 4.7577]
    ),
}
