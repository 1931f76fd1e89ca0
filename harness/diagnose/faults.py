"""The known faults of hpZ by DeepSpeed release, and which of them a configuration is exposed to.

They look alike from outside (NaN, zero or stuck loss); release, sizes and settings tell them apart.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from harness.diagnose.missing_copy import missing_in_model, new_copy_raises
from harness.diagnose.setup import Setup, _check

Answer = Literal["yes", "no", "unknown"]
UPSTREAM = "deepspeedai/DeepSpeed"
OWN = "found by this project on the virtual device; not confirmed on a GPU"


@dataclass(frozen=True, kw_only=True)
class Exposure:
    """Whether a setup is exposed to a fault, why, and the way out."""

    fault: str
    exposed: Answer
    reason: str
    way_out: str
    """Empty where there is nothing to do."""
    source: str
    """The upstream issue or pull request (`owner/repository#number`)."""


Finding = tuple[Answer, str, str]
"""Answer, reason, way out."""


@dataclass(frozen=True, kw_only=True)
class Fault:
    """A known fault: the releases that have it, and a predicate for those."""

    name: str
    first: str
    """The first release that has it."""
    end: str | None
    """The first release that has it no more; None while it is open."""
    source: str
    judge: Callable[[Setup], Finding]
    """Asked only for a release that has the fault and, where `hpz_only`, with hpZ on."""
    hpz_only: bool = True


def exposures(setup: Setup) -> list[Exposure]:
    """What `setup` is exposed to, one answer per known fault. Raises HarnessError for an unusable configuration."""
    _check(setup)
    return [_expose(fault, setup) for fault in FAULTS]


def _expose(fault: Fault, setup: Setup) -> Exposure:
    if fault.hpz_only and setup.hpz <= 1:
        answer, reason, way_out = _off(setup)
    elif not setup.within(fault.first, fault.end):
        answer, reason, way_out = "no", f"{setup.release} does not have it; {_window(fault)}", ""
    else:
        answer, reason, way_out = fault.judge(setup)
    return Exposure(fault=fault.name, exposed=answer, reason=reason, way_out=way_out, source=fault.source)


def _off(setup: Setup) -> Finding:
    if not setup.stage3:
        return "no", f"zero_optimization.stage is {setup.zero.get('stage', 0)}; hpZ is a part of stage 3", ""
    return "no", "hpZ is off (zero_optimization.zero_hpz_partition_size is 1 or absent)", ""


def _window(fault: Fault) -> str:
    return f"releases from {fault.first}" + (f" to before {fault.end} do" if fault.end else " do")


def _race(setup: Setup) -> Finding:
    if not setup.overlap:
        return "no", "overlap_comm is false: copy and all-gather share one stream, which orders them", ""
    return (
        "yes",
        "the all-gather of the secondary partition is on another stream than the copy into it, "
        "and nothing orders the two: NaN, zero or silently wrong loss",
        "upgrade to 0.13.5 or later, where the host waits after each copy (`hpz patch path event` gives the same "
        "order without the wait), or set overlap_comm to false",
    )


def _missing_copy(setup: Setup) -> Finding:
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


def _stale(setup: Setup) -> Finding:
    return (
        "yes",
        "the secondary partition is not made invalid by the optimizer step, so weights of earlier steps are gathered",
        "upgrade to 0.13.5 or later (0.13.2 ends this fault and opens the race)",
    )


def _tiny(setup: Setup) -> Finding:
    way_out = "upgrade to 0.19.5 or later, or keep such parameters from being partitioned"
    if setup.world_size is None:
        return (
            "unknown",
            "give --world-size: parameters of less than world × hpZ elements can stop training",
            way_out,
        )
    limit = setup.world_size * setup.hpz
    if setup.numels is None:
        return (
            "unknown",
            f"a parameter of fewer than {limit} elements can stop training with an IndexError",
            way_out,
        )
    hit = [numel for numel in setup.numels if new_copy_raises(numel, setup.world_size, setup.hpz)]
    if not hit:
        return "no", "no parameter is small enough for a rank's slice to begin beyond its end", ""
    return (
        "yes",
        f"{len(hit)} parameters (the smallest of {min(hit)} elements) stop training with an error",
        way_out,
    )


def _dirty(setup: Setup) -> Finding:
    return (
        "unknown",
        "weights loaded after partitioning (from_pretrained under zero.Init, GatheredParameters, load_checkpoint) "
        "do not reach the secondary partition: the first step's loss is too high; the configuration does not say "
        "whether you load any",
        "upgrade to 0.18.3 or later, or call optimizer.invalidate_secondary_tensor() after loading",
    )


def _offload(setup: Setup) -> Finding:
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


def _hang(setup: Setup) -> Finding:
    return (
        "unknown",
        "reported on 2 × 8 A100 after #4906; open, cause not published",
        "upgrade to 0.13.5 or later; if it hangs, leave out hpZ and report there",
    )


def _step(setup: Setup) -> Finding:
    way_out = "put `hpz patch path event+step` first on PYTHONPATH (`zero3+step` without hpZ)"
    if not setup.stage3:
        return _off(setup)
    if not setup.overlap:
        return "no", "overlap_comm is false: the optimizer's write and the all-gather share one stream", ""
    timer = (setup.config.get("timers") or {}).get("throughput") or {}
    off = [key for key in ("enabled", "synchronized") if timer.get(key) is False]
    what = "nothing orders the first all-gathers of a step after the optimizer's write of the partitions"
    early = setup.within("0.10.0", "0.13.5")  # as 0.13.4, whose timer knows no switch
    if off and not early:
        return (
            "yes",
            f"{what}, and timers.throughput.{off[0]} is false, so no device synchronise covers it",
            way_out,
        )
    accumulation = setup.accumulation
    if early or (accumulation is not None and accumulation > 1):
        return (
            "yes",
            f"{what} before the third step, from which on the throughput timer synchronises",
            way_out,
        )
    if accumulation is None:
        return (
            "unknown",
            f"{what} before the third step where gradient_accumulation_steps is above 1",
            way_out,
        )
    if not setup.within("0.18.0", None):
        return (
            "unknown",
            f"{what} before the third step in 0.13.4; it is covered in 0.18.0, and releases between were not analysed",
            way_out,
        )
    return (
        "no",
        "covered, by the device synchronise of the throughput timer; do not switch that timer off",
        "",
    )


def _placement(setup: Setup) -> Finding:
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


FAULTS: tuple[Fault, ...] = (
    Fault(name="race", first="0.10.0", end="0.13.5", source=f"{UPSTREAM}#5059, fixed by #5216", judge=_race),
    Fault(
        name="missing copy",
        first="0.10.0",
        end="0.13.5",
        source=f"{UPSTREAM}#5216 (its second half)",
        judge=_missing_copy,
    ),
    Fault(
        name="stale secondary",
        first="0.10.3",
        end="0.13.2",
        source=f"{UPSTREAM}#4851, since #4288, fixed by #4906",
        judge=_stale,
    ),
    Fault(
        name="tiny parameters",
        first="0.13.5",
        end="0.19.5",
        source=f"{UPSTREAM}#6659, #5652 in part, fixed by #8210",
        judge=_tiny,
    ),
    Fault(
        name="dirty after load",
        first="0.13.2",
        end="0.18.3",
        source=f"{UPSTREAM}#7606, fixed by #7707",
        judge=_dirty,
    ),
    Fault(name="offload", first="0.10.0", end=None, source=f"{UPSTREAM}#6926", judge=_offload),
    Fault(name="hang", first="0.13.2", end="0.13.5", source=f"{UPSTREAM}#5030", judge=_hang),
    Fault(name="groups across nodes", first="0.10.0", end=None, source=f"{UPSTREAM}#3784", judge=_placement),
    Fault(name="optimizer step", first="0.10.0", end=None, source=OWN, judge=_step, hpz_only=False),
)
