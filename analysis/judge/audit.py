"""Byte audit: what one node sends in a step, inside itself and to other nodes, recorded and by formula.

By formula, with M the bytes of all parameters as they travel (sizes padded to the world size) and g micro-batches: a
pass over the parameters in rings of p ranks sends M (p - 1) / p over each edge of a ring. Rings over all W ranks are
laid along the nodes: of a node's R edges one leaves it. Those of an hpZ group inside a node never do.
ZeRO-3 makes 3g passes over the world (all-gather forward and backward, reduce-scatter), 4g where recomputing
activations gathers again. With hpZ only the first forward gather of a step and the g reduce-scatters are over the
world, 1 + g; the other gathers stay in the group. So volume between nodes allows at most 3g / (1 + g): 1.5, 2, 2.4,
2.67 at g = 1, 2, 4, 8 (ZeRO++, arXiv 2306.10209, section 3.2).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import prod
from statistics import median_low
from typing import Any, NamedTuple

from harness.study import Run, bits_per_second, parameter_shapes, parse_model

ITEM_BYTES = {"bf16": 2, "fp32": 4}
NIC_BITS_PER_SECOND = 12.5e9  # the paper's node, by summaries of others; for studies that name no link

Record = dict[str, Any]


class Sent(NamedTuple):
    """Bytes that one node sends in a steady step."""

    intra: int
    inter: int


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


def formula_bytes(run: Run) -> Sent:
    """What one node sends in a steady step, by formula."""
    ranks, intra, inter = run.shape.ranks_per_node, 0.0, 0.0
    for count, size in zip(passes(run), (run.shape.world_size, run.shape.hpz), strict=True):
        each = count * travelling_bytes(run) * (size - 1) / size
        leaving = int(size > ranks)  # a ring over more than one node leaves each by one of its edges
        intra += each * (ranks - leaving)
        inter += each * leaving
    return Sent(round(intra), round(inter))


def volume_bound(micro_batches: int, recompute: bool) -> float:
    """The largest speed-up over ZeRO-3 that hpZ's inter-node volume allows: when the link is all that counts."""
    return (4 if recompute else 3) * micro_batches / (1 + micro_batches)


def audit_records(
    pairs: Iterable[Record],
    runs: Mapping[str, Run],
    baselines: Mapping[str, Run],
    wire: Iterable[Record] = (),
) -> list[Record]:
    """Recorded and formula bytes of ZeRO-3 and of hpZ: one row a model, shape, training and link.

    Variants that sent the same share a row. One whose runs all diverged has none, for a skipped step sends less.
    `pairs` and `wire` are those of summary.json; `runs` and `baselines` give each pair's runs by the pair's run id.
    """
    metered = {record["run_id"]: record["byte_ratio"] for record in wire}
    groups: dict[tuple[Any, ...], list[Record]] = {}
    for pair in pairs:
        run = runs[pair["run_id"]]
        measured = pair["bytes_inter_per_step"] and pair["baseline_bytes_inter_per_step"]
        trained = pair["verdict"] not in (None, "diverged")
        if measured and trained and run.shape.hpz > 1 and run.shape.nodes > 1:
            key = (run.model, str(run.shape), run.device, str(run.training), run.link, run.variant)
            groups.setdefault(key, []).append(pair)
    return _folded([_row(group, runs, baselines, metered) for group in groups.values()])


def _folded(rows: list[Record]) -> list[Record]:
    """Rows that differ in variants and run ids alone, as one."""
    lists = ("variants", "run_ids", "baseline_run_ids")
    found: dict[str, Record] = {}
    for row in rows:
        same = found.setdefault(str({k: v for k, v in row.items() if k not in (*lists, "wire_ratio")}), row)
        if same is not row:
            same |= {name: list(dict.fromkeys([*same[name], *row[name]])) for name in lists}
            same["wire_ratio"] = max(filter(None, (same["wire_ratio"], row["wire_ratio"])), default=None)
    return list(found.values())


def _row(
    pairs: list[Record], runs: Mapping[str, Run], baselines: Mapping[str, Run], metered: Mapping[str, float]
) -> Record:
    first = pairs[0]
    run, baseline = runs[first["run_id"]], baselines[first["run_id"]]
    training, link = run.training, bits_per_second(run.link) if run.link else NIC_BITS_PER_SECOND
    hpz, zero3 = (
        Sent(*(median_low(pair[f"{side}bytes_{where}_per_step"] for pair in pairs) for where in Sent._fields))
        for side in ("", "baseline_")
    )
    hpz_formula, zero3_formula = formula_bytes(run), formula_bytes(baseline)
    return {
        "model": run.model,
        "variants": [run.variant],
        "shape": run.shape.model_dump(mode="json"),
        "device": run.device,
        "link": run.link,
        "gradient_accumulation": training.gradient_accumulation,
        "recompute": training.activation_checkpointing,
        "zero3_bytes": zero3.inter,
        "zero3_formula": zero3_formula.inter,
        "hpz_bytes": hpz.inter,
        "hpz_formula": hpz_formula.inter,
        "zero3_intra_bytes": zero3.intra,
        "zero3_intra_formula": zero3_formula.intra,
        "hpz_intra_bytes": hpz.intra,
        "hpz_intra_formula": hpz_formula.intra,
        "recorded_ratio": zero3.inter / hpz.inter,
        "wire_ratio": max((metered[p["run_id"]] for p in pairs if p["run_id"] in metered), default=None),
        "volume_bound": volume_bound(training.gradient_accumulation, training.activation_checkpointing),
        "link_gbit_s": link / 1e9,
        "zero3_link_seconds": zero3.inter * 8 / link,
        "hpz_link_seconds": hpz.inter * 8 / link,
        "evidence": first["evidence"],
        "run_ids": sorted({pair["run_id"] for pair in pairs}),
        "baseline_run_ids": sorted({pair["baseline_run_id"] for pair in pairs}),
    }
