"""Byte audit: what one node sends to other nodes in a step, recorded and by formula, and the speed-up that allows.

By formula, with M the bytes of all parameters as they travel (sizes padded to the world size), W ranks in rings laid
along the nodes, and g micro-batches: each pass over the parameters costs a node M (W - 1) / W on its link.
ZeRO-3 makes 3g passes (all-gather forward and backward, reduce-scatter), 4g where recomputing activations gathers
again. With hpZ inside a node only the first forward gather of a step and the g reduce-scatters leave it: 1 + g.
So volume allows at most 3g / (1 + g): 1.5, 2, 2.4, 2.67 at g = 1, 2, 4, 8 (ZeRO++, arXiv 2306.10209, section 3.2).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import prod
from typing import Any

from harness.models import parameter_shapes, parse_model
from harness.study import Run

ITEM_BYTES = {"bf16": 2, "fp32": 4}
NIC_BITS_PER_SECOND = 12.5e9  # the paper's node, by summaries of others

Record = dict[str, Any]


def travelling_bytes(run: Run) -> int:
    """Bytes of all parameters in one pass, each padded to a multiple of the world size."""
    world = run.shape.world_size
    shapes = parameter_shapes(parse_model(run.model_spec, f"model {run.model}"))
    return sum(-(-prod(shape) // world) * world for _, shape in shapes) * ITEM_BYTES[run.training.dtype]


def passes(run: Run) -> tuple[int, int]:
    """Passes over the parameters in a step: (over the whole world, over the hpZ group)."""
    micro, again = run.training.gradient_accumulation, int(run.training.activation_checkpointing)
    gathers = (2 + again) * micro
    if run.shape.hpz == 1:
        return gathers + micro, 0
    return 1 + micro, gathers - 1


def formula_inter_bytes(run: Run) -> int:
    """Bytes that one node sends to other nodes in a steady step, by formula."""
    shape = run.shape
    if shape.nodes == 1:
        return 0
    world_passes, group_passes = passes(run)
    crossing = world_passes * (shape.world_size - 1) / shape.world_size
    if shape.hpz > shape.ranks_per_node:  # the group's ring leaves the node, too
        crossing += group_passes * (shape.hpz - 1) / shape.hpz
    return round(travelling_bytes(run) * crossing)


def volume_bound(micro_batches: int, recompute: bool) -> float:
    """The largest speed-up over ZeRO-3 that hpZ's inter-node volume allows: when the link is all that counts."""
    return (4 if recompute else 3) * micro_batches / (1 + micro_batches)


def audit_records(
    pairs: Iterable[Record], runs: Mapping[str, Run], baselines: Mapping[str, Run]
) -> list[Record]:
    """One row for each model, shape and training: recorded and formula bytes of ZeRO-3 and of hpZ, and their ratio.

    `pairs` are those of summary.json; `runs` and `baselines` give each pair's runs by the pair's run id.
    """
    groups: dict[tuple[Any, ...], list[Record]] = {}
    for pair in pairs:
        run = runs[pair["run_id"]]
        measured = pair["bytes_inter_per_step"] and pair["baseline_bytes_inter_per_step"]
        if measured and run.shape.hpz > 1 and run.shape.nodes > 1:
            groups.setdefault((run.model, str(run.shape), run.device, str(run.training)), []).append(pair)
    return [_row(group, runs, baselines) for group in groups.values()]


def _row(pairs: list[Record], runs: Mapping[str, Run], baselines: Mapping[str, Run]) -> Record:
    pairs = [
        pair for pair in pairs if pair["verdict"] in ("exact", "equivalent")
    ] or pairs  # a skipped step sends less
    first = pairs[0]
    run, baseline = runs[first["run_id"]], baselines[first["run_id"]]
    hpz = sorted(pair["bytes_inter_per_step"] for pair in pairs)[len(pairs) // 2]
    zero3 = sorted(pair["baseline_bytes_inter_per_step"] for pair in pairs)[len(pairs) // 2]
    training = run.training
    return {
        "model": run.model,
        "shape": run.shape.model_dump(mode="json"),
        "device": run.device,
        "gradient_accumulation": training.gradient_accumulation,
        "recompute": training.activation_checkpointing,
        "zero3_bytes": zero3,
        "zero3_formula": formula_inter_bytes(baseline),
        "hpz_bytes": hpz,
        "hpz_formula": formula_inter_bytes(run),
        "recorded_ratio": zero3 / hpz,
        "volume_bound": volume_bound(training.gradient_accumulation, training.activation_checkpointing),
        "zero3_link_seconds": zero3 * 8 / NIC_BITS_PER_SECOND,
        "hpz_link_seconds": hpz * 8 / NIC_BITS_PER_SECOND,
        "evidence": first["evidence"],
        "run_ids": sorted({pair["run_id"] for pair in pairs} | {pair["baseline_run_id"] for pair in pairs}),
    }
