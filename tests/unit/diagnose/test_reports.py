"""Reports that people posted, retyped: what they saw, what they ran, and what a fix or a maintainer said it was."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from harness.diagnose.cases import Known, case_of
from harness.diagnose.curve import curve_of, empty_curve
from harness.diagnose.doctor import examine
from harness.diagnose.triage import Triage, triage

NAN, ROOT2 = math.nan, math.sqrt(2)
BF16: dict[str, Any] = {"bf16": {"enabled": True}}
CPU = {"device": "cpu", "pin_memory": True}


def zero(stage: int, **keys: Any) -> dict[str, Any]:
    return {"zero_optimization": {"stage": stage, **keys}}


def hpz(size: int = 8, **keys: Any) -> dict[str, Any]:
    return zero(3, zero_hpz_partition_size=size, **keys)


def rows(losses: list[float], norms: list[float] | None = None, **columns: float) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = [
        {"step": step, "loss": loss, **columns} for step, loss in enumerate(losses, 1)
    ]
    for row, norm in zip(found, norms or [], strict=False):
        row["grad_norm"] = norm
    return found


def seen(
    posted: list[dict[str, Any]], config: dict[str, Any] | None, release: str | None, world: int | None
) -> Triage:
    known = Known(config=config, release=release, world_size=world, ranks_per_node=8)
    return triage(case_of(curve_of(posted, "log") if posted else empty_curve(), known.setup(), "log"))


OVERLAP = zero(2, overlap_comm=True, reduce_bucket_size=50_000_000)
TRIAGED: dict[str, tuple[list[dict[str, Any]], dict[str, Any] | None, str | None, int | None, str]] = {
    "DeepSpeed#5059": (rows([2.1364, 2.0157, 0.0, 0.0]), BF16 | hpz(overlap_comm=True), "0.13.2", 16, "race"),
    "DeepSpeed#6926": (
        rows([11.9321] * 10, [0.0] * 10),
        hpz(offload_optimizer=CPU, offload_param=CPU),
        "0.16.2",
        32,
        "offload",
    ),
    "ms-swift#3697, no release": (rows([0.0] * 10), hpz(offload_param=CPU), None, None, "offload"),
    "DeepSpeed#5057, evaluation alone": (
        [{"eval_loss": 2.112, "eval_accuracy": 0.0}],
        hpz(offload_param=CPU, offload_optimizer=CPU, zero_quantized_gradients=True),
        "0.13.1",
        8,
        "stale secondary",
    ),
    "DeepSpeed#4886, case 5": (
        rows([2409.0, math.inf, math.inf]),
        BF16 | hpz(zero_quantized_gradients=True),
        "0.12.6",
        32,
        "quantised gradients",
    ),
    "DeepSpeed#5030": ([], BF16 | hpz(overlap_comm=True), "0.13.2", 16, "hang"),
    "DeepSpeed#5242, 0.12.4": (rows([0.0] * 8, [1.0] * 8), OVERLAP, "0.12.4", 32, "bucket reused"),
    "DeepSpeed#5242, 0.16.4": (rows([0.0] * 8, [NAN] * 8), OVERLAP, "0.16.4", 32, "bucket freed"),
    "DeepSpeed#5347, gradients alone": (
        [{"step": 37 + n, "grad_norm": norm} for n, norm in enumerate([1.62, 1.52, NAN, 1.43, NAN, NAN])],
        BF16 | OVERLAP,
        "0.14.0",
        8,
        "bucket reused",
    ),
    "DeepSpeed#5347, smaller rate": (
        [
            {"step": 113 + n, "grad_norm": norm}
            for n, norm in enumerate([1.5, 1.003, ROOT2, ROOT2, ROOT2, ROOT2])
        ],
        BF16 | OVERLAP,
        "0.14.0",
        8,
        "bucket reused",
    ),
    "DeepSpeed#7188": (
        rows([1.9, 1.8, 0.0, 0.0, 0.0], [3.1, 2.9, ROOT2, ROOT2, ROOT2]),
        OVERLAP,
        "0.17.3",
        8,
        "",
    ),
    "DeepSpeed#8061": (rows([NAN] * 6), BF16 | zero(2, overlap_comm=True), "0.19.0", 8, "several producers"),
    "DeepSpeed#7965": (rows([11.201, 11.1657, NAN]), zero(2, overlap_comm=True), "0.18.9", 8, "bucket freed"),
    "transformers#28391": (
        rows([2.9375, 2.2244, 3.5073, 4.1485, 3.1678, 2.0759, 4.6716, 2.0029], learning_rate=5e-5),
        zero(3, offload_param=CPU, offload_optimizer=CPU),
        "0.12.6",
        2,
        "transformers: offload",
    ),
    "a recommender": (
        rows([12.1034, 12.0582, 12.0021, 12.0653], [0.0] * 4, learning_rate=0.0),
        zero(0),
        None,
        1,
        "learning rate 0",
    ),
    "gpt-neox#947": (
        rows([2.2758, 11.0545, 11.01, 11.08], learning_rate=1e-9),
        None,
        None,
        None,
        "load undone",
    ),
    "trl#3857": (rows([0.0] * 4, [0.0] * 4, reward=3.0, reward_std=0.0), None, None, None, "no advantage"),
}


@pytest.mark.parametrize("name", TRIAGED)
def test_a_report_is_given_its_cause(name: str) -> None:
    *known, fault = TRIAGED[name]
    found = seen(*known)
    if fault:
        assert found.fault == fault
    else:  # two faults of the same buckets are open in this release
        assert {found.fault, *found.possible} >= {"bucket freed", "bucket index"}


ORDINARY = {
    "DeepSpeed#5216": rows([2.0731, 2.0288, 1.927, 1.8347, 1.8347, 1.7896, 1.602, 1.766, 1.8751, 1.6776]),
    "pretraining, every 100 steps": [
        {"step": 100 * n, "loss": loss, "grad_norm": 1.0}
        for n, loss in enumerate([8.91, 6.62, 6.21, 6.02, 5.9, 5.81, 5.74, 5.69, 5.65, 5.61, 5.58, 5.55], 1)
    ],
    "a quick first step": rows([3.21, 1.42, 1.36, 1.31, 1.33, 1.28, 1.26, 1.27, 1.24, 1.22, 1.23, 1.2]),
    "ms-swift#5890, GRPO": rows([1e-8, 4e-8, -2e-8, 3e-8, 3e-8], [0.0387, 0.0303, 0.0323, 0.0298, 0.0311]),
    "GRPO at 0": rows([0.0] * 8, [0.2 + n / 1000 for n in range(8)], reward=0.3),
}


@pytest.mark.parametrize("name", ORDINARY)
@pytest.mark.parametrize("config", [None, BF16 | hpz(), BF16 | zero(2, overlap_comm=True)])
def test_an_ordinary_curve_is_no_alarm(name: str, config: dict[str, Any] | None) -> None:
    assert seen(ORDINARY[name], config, "0.19.8" if config else None, 16).verdict == "healthy"


EXAMINED: dict[str, tuple[dict[str, Any], str | None, dict[str, Any], set[str]]] = {
    "DeepSpeed#5059": (BF16 | hpz(overlap_comm=True), "0.13.2", {"world_size": 16}, {"race"}),
    "DeepSpeed#4851": (hpz(overlap_comm=True), "0.12.5", {"world_size": 32}, {"stale secondary"}),
    "DeepSpeed#6659": (hpz(16), "0.15.2", {"world_size": 2048, "numels": (32,)}, {"tiny parameters"}),
    "DeepSpeed#4901": (hpz(), "0.16.3", {"facts": frozenset({"two zero.Init"})}, {"second model"}),
    "a script for LUMI, stage 2": (
        zero(2, zero_hpz_partition_size=8, overlap_comm=True),
        "0.10.3",
        {"world_size": 64},
        {"no effect: stage", "bucket reused"},
    ),
    "no stage": (
        {"zero_optimization": {"zero_hpz_partition_size": 4, "zero_quantized_weights": True}},
        "0.10.3",
        {},
        {"no effect: stage"},
    ),
    "DeepSpeed#3827": (hpz(), "0.9.5", {"world_size": 8}, {"no ZeRO++"}),
    "the tutorial's, on nodes of 8": (
        hpz(16, zero_quantized_weights=True, zero_quantized_gradients=True),
        "0.11.1",
        {"world_size": 64},
        {"groups across nodes", "stale secondary"},
    ),
    "DeepSpeed#4852": (
        BF16 | zero(3, zero_quantized_weights=True),
        "0.12.5",
        {},
        {"quantised weights: bf16"},
    ),
    "DeepSpeed#4386": (
        BF16 | hpz(zero_quantized_weights=True),
        "0.10.3",
        {"world_size": 24},
        {"quantised weights: size", "missing copy", "stale secondary"},
    ),
    "DeepSpeed#5545": (zero(1, overlap_comm=True), "0.14.2", {}, {"bucket reused"}),
    "DeepSpeed#7898": (BF16 | zero(3), "0.18.0", {"torch": "2.10.0"}, {"zero-3 default stream"}),
    "DeepSpeed#4808": (
        zero(3),
        "0.13.1",
        {"facts": frozenset({"moe"}), "facts_read": True},
        {"expert without tokens"},
    ),
    "one node": (hpz(), "0.16.4", {"world_size": 8}, {"no effect: one group"}),
    "a threshold of 1e9": (
        hpz(stage3_param_persistence_threshold=1e9),
        "0.16.4",
        {},
        {"no effect: persistence"},
    ),
}


@pytest.mark.parametrize("name", EXAMINED)
def test_a_setup_is_told_what_applies_to_it(name: str) -> None:
    config, release, more, faults = EXAMINED[name]
    setup = replace(Known(config=config, release=release, ranks_per_node=8).setup(), **more)
    assert {one.fault for one in examine(setup).exposures if one.exposed == "yes"} >= faults


def test_the_fault_of_7606_may_apply_wherever_weights_are_loaded() -> None:
    found = examine(Known(config=hpz(4), release="0.16.9", world_size=8, ranks_per_node=8).setup())
    assert found.headline == "Possible: loaded weights come a step late. First: upgrade DeepSpeed to 0.18.3."
