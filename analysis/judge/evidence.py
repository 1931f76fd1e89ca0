"""What may be concluded from judged pairs: evidence levels, controls, and where an order could have changed anything.

Everything here is a function of pairs as summary.json holds them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

Record = Mapping[str, Any]
OBTAINED = {  # strongest first
    "multi-node": "NCCL between nodes",
    "one-gpu": "real CUDA streams; ranks share a GPU",
    "cpu": "real network, real bytes, no streams",
    "virtual-device": "real values, schedules that CUDA would allow",
    "simulated-time": "a cost model's clock",
}
LEVELS = tuple(OBTAINED)

SOUND = ("exact", "equivalent")

RANK = {None: -1, "exact": 0, "equivalent": 1, "drifted": 2, "diverged": 3}  # the worst is shown
REORDERING = (
    "virtual-device",
    "one-gpu",
    "multi-node",
)  # where work that nothing orders can run out of order

CONDITIONS = (  # what a pair and its control share; the baseline's id stands for seed, shape and data
    "model",
    "release",
    "device",
    "schedule",
    "poison",
    "gradient_accumulation",
    "throughput_timer",
    "link",
    "axes",
    "baseline_run_id",
)


def weaker(*levels: str) -> str:
    """The weakest evidence level: what a number made of several may be quoted at."""
    return max(levels, key=LEVELS.index)


def could_reorder(pair: Record) -> bool:
    return pair["evidence"] in REORDERING and pair["policy"] != "eager"


def left_to_chance(pair: Mapping[str, Any]) -> bool:
    """A GPU at its own rate: what does not strike there may strike elsewhere, so only a stall can acquit."""
    return bool(pair["evidence"] == "one-gpu" and not pair["stall_us"])


def moved(pair: Mapping[str, Any]) -> bool:
    """Inside the band of seeds, yet not bit-equal on the virtual device, where nothing but an order changes values."""
    return bool(pair["evidence"] == "virtual-device" and pair["verdict"] == "equivalent")


def fault_of(pair: Record) -> str:
    """Which fault a failed pair shows: in program order only the missing copy can; on aligned sizes only the race."""
    if not could_reorder(pair):
        return "in order"
    return "reordered, aligned" if pair["model_aligned"] else "reordered, unaligned"


def extra_host_syncs(pair: Record, pairs: Iterable[Record]) -> float | None:
    """Host waits per step beyond ZeRO-3's under the same policy; None for a failed pair or where nothing compares.

    ZeRO-3 under that policy is the pair's baseline or, where that runs under another one, a pair of its own.
    """
    ours = pair["host_syncs_per_step"]
    if ours is None or pair["verdict"] not in SOUND or not pair["same_conditions"]:
        return None
    if baseline_ran_alike(pair):
        theirs = pair["baseline_host_syncs_per_step"]
    else:
        control = control_of(pair, pairs, pair["baseline_variant"])
        theirs = control["host_syncs_per_step"] if control else None
    return None if theirs is None else ours - theirs


def baseline_ran_alike(pair: Mapping[str, Any]) -> bool:
    """Whether the pair's baseline ran on the same device, in the same order and trained alike."""
    order = (pair["baseline_device"], pair["baseline_policy"]) == (pair["device"], pair["policy"])
    return bool(pair["same_conditions"] and order)


def zero3_beside(pair: Mapping[str, Any], pairs: Iterable[Mapping[str, Any]]) -> str | None:
    """Verdict of ZeRO-3 under the pair's order and settings; None where it was not run there."""
    name = "zero3+step" if pair["variant"].endswith("+step") else "zero3"
    if pair["baseline_variant"] == name and baseline_ran_alike(pair):
        return "exact"
    control = control_of(pair, pairs, name)
    return control["verdict"] if control else None


def control_of(
    pair: Mapping[str, Any], pairs: Iterable[Mapping[str, Any]], variant: str
) -> Mapping[str, Any] | None:
    """The judged pair of `variant` that differs from `pair` in the variant alone; None where there is none."""
    alike = (
        other
        for other in pairs
        if other["variant"] == variant
        and other["verdict"]
        and all(other[name] == pair[name] for name in CONDITIONS)
    )
    return next(alike, None)


def ran(summary: Record) -> bool:
    """Whether losses are the matter; not so where the study was simulated or analysed and nothing else."""
    other = summary["simulated"] or summary["races"]
    return not other or any(pair["verdict"] for pair in summary["pairs"])
