"""For each known fault, whether a setup is exposed to it, why, and the way out; asked only for releases that have it.

The faults themselves, with their releases, stand in `harness.diagnose.faults`.
"""

from __future__ import annotations

from typing import Literal

from harness.configuration import FIRST
from harness.diagnose.missing_copy import missing_in_model, new_copy_raises, old_copy_raises
from harness.diagnose.setup import Setup

Answer = Literal["yes", "no", "unknown"]
Finding = tuple[Answer, str, str]
"""Answer, reason, way out (empty where there is nothing to do)."""

TIMER_SWITCHES = "0.14.3"
"""The first release whose throughput timer can be switched off (`timers.throughput`)."""
TRACE_CHECK_FIRST = "0.15.4"
"""The first release whose forward pass starts with the host's check of the recorded trace, which waits for the device.
Before, that check came at the end of the backward pass, where it covers no optimizer step."""


def off(setup: Setup) -> Finding:
    """The answer where a fault of hpZ, or of ZeRO-3, meets a configuration without it."""
    if not setup.stage3:
        return "no", f"zero_optimization.stage is {setup.zero.get('stage', 0)}; hpZ is a part of stage 3", ""
    return "no", "hpZ is off (zero_optimization.zero_hpz_partition_size is 1 or absent)", ""


def race(setup: Setup) -> Finding:
    if not setup.overlap:
        return "no", "overlap_comm is false: copy and all-gather share one stream, which orders them", ""
    what = (
        "the all-gather of the secondary partition is on another stream than the copy into it, "
        "and nothing orders the two: NaN, zero or silently wrong loss"
    )
    way_out = (
        "upgrade to 0.13.5 or later, where the host waits after each copy (`hpz patch path event` gives the same "
        "order without the wait), or set overlap_comm to false"
    )
    # In 0.10.0 the host reads the loss after each micro-batch but the last, and only the first one makes the copies.
    if setup.accumulation == 1 or not setup.within(FIRST, "0.10.0"):
        return "yes", what, way_out
    if setup.accumulation is None:
        return "unknown", f"{what}, where gradient_accumulation_steps is 1", way_out
    return (
        "no",
        "where micro-batches accumulate, the host's read of the loss after the first one happens to order its copies",
        "",
    )


def missing_copy(setup: Setup) -> Finding:
    way_out = "upgrade to 0.13.5 or later, or use zero_hpz_partition_size equal to the world size"
    if setup.world_size is None:
        return "unknown", "give --world-size: it depends on which sizes do not divide by it", way_out
    if setup.hpz == setup.world_size:
        return "no", "one hpZ group holds every rank; there the old copy writes everything", ""
    rule = f"every parameter whose size does not divide by {setup.world_size} loses elements of its copy"
    if setup.numels is None:
        return "unknown", f"{rule}; give the model's parameter sizes", way_out
    missing = missing_in_model(setup.numels, setup.world_size, setup.hpz)
    if not missing.parameters:
        return "no", f"all {len(setup.numels)} parameter sizes divide by {setup.world_size}", ""
    share = f"{missing.parameters} of {len(setup.numels)} parameters, {missing.share:.2%} of all elements"
    return "yes", f"{rule}: {share} are never written, with no asynchrony at all", way_out


def stale(setup: Setup) -> Finding:
    return (
        "yes",
        "the secondary partition is not made invalid by the optimizer step, so weights of earlier steps are gathered",
        "upgrade to 0.13.5 or later (0.13.2 ends this fault and opens the race)",
    )


def tiny(setup: Setup) -> Finding:
    way_out = "upgrade to 0.19.5 or later, or keep such parameters from being partitioned"
    if setup.world_size is None:
        return (
            "unknown",
            "give --world-size: parameters with few elements for that world can stop training",
            way_out,
        )
    old = setup.within(FIRST, "0.13.4")
    limit = setup.world_size * (setup.world_size if old else setup.hpz)
    if setup.numels is None:
        return (
            "unknown",
            f"a parameter of fewer than {limit} elements can stop training with an error from `narrow`",
            way_out,
        )
    raises = old_copy_raises if old else new_copy_raises
    hit = [numel for numel in setup.numels if raises(numel, setup.world_size, setup.hpz)]
    if not hit:
        return "no", "no parameter is small enough for a rank's slice to lie beyond its end", ""
    return (
        "yes",
        f"{len(hit)} parameters (the smallest of {min(hit)} elements) stop training with an error",
        way_out,
    )


def dirty(setup: Setup) -> Finding:
    how = "load_checkpoint before the first step"
    if setup.within(
        "0.14.3", None
    ):  # before it, leaving GatheredParameters made the secondary partition anew
        how += ", from_pretrained under zero.Init, GatheredParameters"
    if setup.within(FIRST, "0.10.2"):
        effect = "the first step's gradients are those of the weights before"
    elif setup.within(FIRST, "0.13.1"):
        effect = "they are gathered ever after (see stale secondary)"
    else:
        effect = "the first step's loss is that of the weights before"
    return (
        "unknown",
        f"weights loaded after partitioning ({how}) do not reach the secondary partition: {effect}; the configuration "
        "does not say whether you load any",
        "upgrade to 0.18.3 or later, or call optimizer.invalidate_secondary_tensor() after loading",
    )


def offload(setup: Setup) -> Finding:
    devices = {
        key: (setup.zero.get(key) or {}).get("device", "none")
        for key in ("offload_param", "offload_optimizer")
    }
    used = [key for key, device in devices.items() if device not in ("none", None)]
    if not used:
        return "no", "nothing is offloaded", ""
    return (
        "yes",
        f"{' and '.join(used)} together with hpZ: reported with the loss stuck (at 11.93 or 0.0) and a gradient "
        "norm of 0; open, cause not published",
        "leave out offloading or hpZ",
    )


def hang(setup: Setup) -> Finding:
    return (
        "unknown",
        "reported on 2 × 8 A100 after #4906; open, cause not published",
        "upgrade to 0.13.5 or later; if it hangs, leave out hpZ and report there",
    )


def step(setup: Setup) -> Finding:
    way_out = f"put `hpz patch path {_events(setup)}+step` first on PYTHONPATH"
    if not setup.overlap:
        return "no", "overlap_comm is false: the optimizer's write and the all-gather share one stream", ""
    timer = (setup.config.get("timers") or {}).get("throughput") or {}
    off = [key for key in ("enabled", "synchronized") if timer.get(key) is False]
    what = "nothing orders the first all-gathers of a step after the optimizer's write of the partitions"
    if off and setup.within(TIMER_SWITCHES, None):
        return (
            "yes",
            f"{what}, and timers.throughput.{off[0]} is false, so no device synchronise covers it",
            way_out,
        )
    early = f"{what} before the third step, from which on the throughput timer synchronises"
    if not setup.within(TRACE_CHECK_FIRST, None):
        return "yes", early, way_out
    if setup.accumulation is None:
        return (
            "unknown",
            f"{what} before the third step where gradient_accumulation_steps is above 1",
            way_out,
        )
    if setup.accumulation > 1:
        return "yes", early, way_out
    return (
        "no",
        "covered by the host's check of the recorded trace before the second step, and from the third step on by the "
        "device synchronise of the throughput timer; do not switch that timer off",
        "",
    )


def write_between_passes(setup: Setup) -> Finding:
    if not setup.overlap:
        return "no", "overlap_comm is false: what is written and the all-gather share one stream", ""
    return (
        "unknown",
        "nothing orders the next all-gathers after what load_checkpoint, load_module_state_dict, a universal "
        "checkpoint, the exit of GatheredParameters with modifier_rank, or an average or tie of your own wrote to the "
        "16-bit partitions; the configuration does not say whether anything writes there between passes",
        f"if something does, put `hpz patch path {_events(setup)}+step+load` first on PYTHONPATH",
    )


def _events(setup: Setup) -> str:
    return "event" if setup.hpz > 1 else "zero3"


def placement(setup: Setup) -> Finding:
    if setup.ranks_per_node is None:
        return "unknown", "give --ranks-per-node: groups are contiguous ranks and must not span nodes", ""
    if setup.ranks_per_node % setup.hpz:
        return (
            "yes",
            f"hpZ groups of {setup.hpz} contiguous ranks span nodes of {setup.ranks_per_node}: slow, not wrong",
            f"use a divisor of {setup.ranks_per_node} for zero_hpz_partition_size, and block distribution of ranks",
        )
    return (
        "no",
        "each group fits in a node, provided that ranks are placed in blocks (srun --distribution=block)",
        "",
    )
