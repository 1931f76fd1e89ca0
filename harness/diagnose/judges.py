"""What facts alone do not decide about exposure: sizes, covers by a wait elsewhere, what nobody can know.

Each judge is asked only where release and facts of a fault's entry (`known/*.toml`) do not exclude it. It is given the
setup and the entry's reason.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from harness.configuration import FIRST
from harness.diagnose.missing_copy import missing_in_model, new_copy_raises, old_copy_raises
from harness.diagnose.setup import Setup

Answer = Literal["yes", "unknown", "safe by release", "safe by setting", "not applicable", "not examined"]
"""Whether a setup is exposed. Four kinds of no: the release lacks the fault, a setting keeps it away, it cannot be here
at all, or nobody has looked."""
Finding = tuple[Answer, str]
Judge = Callable[[Setup, str], Finding]

TIMER_SWITCHES = "0.14.3"
"""The first release whose throughput timer can be switched off (`timers.throughput`)."""
TRACE_CHECK_FIRST = "0.15.4"
"""The first release whose forward pass starts with the host's check of the recorded trace, which waits for the device.
Before, that check came at the end of the backward pass, where it covers no optimizer step."""


def possible(setup: Setup, why: str) -> Finding:
    """What settings make possible, and nothing here can exclude."""
    return "unknown", f"{why}; whether it strikes, the settings do not say"


def race(setup: Setup, why: str) -> Finding:
    # In 0.10.0 the host reads the loss after each micro-batch but the last, and only the first one makes the copies.
    if setup.accumulation == 1 or setup.release is None or not setup.within(FIRST, "0.10.0"):
        return "yes", why
    if setup.accumulation is None:
        return "unknown", f"{why}, where gradient_accumulation_steps is 1"
    return (
        "safe by setting",
        "where micro-batches accumulate, the host's read of the loss after the first one happens to order its copies",
    )


def missing_copy(setup: Setup, why: str) -> Finding:
    if setup.world_size is None:
        return "unknown", "it depends on which sizes do not divide by the world size"
    rule = f"every parameter whose size does not divide by {setup.world_size} loses elements of its copy"
    if setup.numels is None and _odd(setup.world_size):
        return "yes", f"{rule}, and {setup.world_size} is no power of two, as the sizes of most models are"
    if setup.numels is None:
        return "unknown", f"{rule}; give the model's parameter sizes (--model or --sizes)"
    missing = missing_in_model(setup.numels, setup.world_size, setup.hpz)
    if not missing.parameters:
        return "safe by setting", f"all {len(setup.numels)} parameter sizes divide by {setup.world_size}"
    share = f"{missing.parameters} of {len(setup.numels)} parameters, {missing.share:.2%} of all elements"
    return "yes", f"{rule}: {share} are never written, with no asynchrony at all"


def _odd(number: int) -> bool:
    """Whether it is no power of two."""
    return bool(number & (number - 1))


def tiny(setup: Setup, why: str) -> Finding:
    if setup.world_size is None:
        return (
            "unknown",
            "give --world-size: parameters with few elements for that world can stop training",
        )
    old = setup.release is None or setup.within(FIRST, "0.13.4")
    limit = setup.world_size * (setup.world_size if old else setup.hpz)
    if setup.numels is None:
        return "unknown", f"a parameter of fewer than {limit} elements can stop training with an error"
    raises = old_copy_raises if old else new_copy_raises
    hit = [numel for numel in setup.numels if raises(numel, setup.world_size, setup.hpz)]
    if not hit:
        return "safe by setting", "no parameter is small enough for a rank's slice to lie beyond its end"
    which = "a parameter" if len(hit) == 1 else f"{len(hit)} parameters, the smallest"
    return "yes", f"{which} of {min(hit)} elements: training stops with an error"


def dirty(setup: Setup, why: str) -> Finding:
    how = "load_checkpoint before the first step"
    if setup.release and setup.within("0.14.3", None):
        # before it, leaving GatheredParameters made the secondary partition anew
        how += ", from_pretrained under zero.Init, GatheredParameters"
    if setup.release and setup.within(FIRST, "0.10.2"):
        effect = "the first step's gradients are those of the weights before"
    elif setup.release and setup.within(FIRST, "0.13.1"):
        effect = "they are gathered ever after (see stale secondary)"
    else:
        effect = "the first step's loss is that of the weights before"
    return (
        "yes" if "loads weights" in setup.facts else "unknown",
        f"weights loaded after partitioning ({how}) do not reach the secondary partition: {effect}",
    )


def offload(setup: Setup, why: str) -> Finding:
    used = [key for key in ("offload_param", "offload_optimizer") if getattr(setup, key)]
    return "yes", f"{' and '.join(used)}: {why}"


def step(setup: Setup, why: str) -> Finding:
    timer = (setup.config.get("timers") or {}).get("throughput") or {}
    off = [key for key in ("enabled", "synchronized") if timer.get(key) is False]
    if setup.release is None:
        return "unknown", f"{why}; whether something covers it depends on the release"
    if off and setup.within(TIMER_SWITCHES, None):
        return "yes", f"{why}, and timers.throughput.{off[0]} is false, so no device synchronise covers it"
    early = f"{why} before the third step, from which on the throughput timer synchronises"
    if not setup.within(TRACE_CHECK_FIRST, None):
        return "yes", early
    if setup.accumulation is None:
        return "unknown", f"{why} before the third step where gradient_accumulation_steps is above 1"
    if setup.accumulation > 1:
        return "yes", early
    return (
        "safe by setting",
        "covered by the host's check of the recorded trace before the second step, and from the third step on by the "
        "device synchronise of the throughput timer; do not switch that timer off",
    )


def write_between_passes(setup: Setup, why: str) -> Finding:
    return "unknown", why


def placement(setup: Setup, why: str) -> Finding:
    if setup.ranks_per_node is None:
        return "unknown", "give --ranks-per-node: groups are contiguous ranks and must not span nodes"
    if setup.ranks_per_node % setup.hpz:
        return (
            "yes",
            f"hpZ groups of {setup.hpz} contiguous ranks span nodes of {setup.ranks_per_node}: slow, not wrong",
        )
    return (
        "safe by setting",
        "each group fits in a node, provided that ranks are placed in blocks (srun --distribution=block)",
    )


def multiple_of_8(setup: Setup, why: str) -> Finding:
    """A rank's part of a parameter, rounded up, is what the kernel is given."""
    if setup.world_size is None:
        return "unknown", f"{why}; give --world-size"
    if setup.numels is None:
        if _odd(setup.world_size):
            return (
                "yes",
                f"{why}; {setup.world_size} ranks are no power of two, and common sizes then leave no multiple of 8",
            )
        return "unknown", f"{why}; give the model's parameter sizes (--model or --sizes)"
    hit = [numel for numel in setup.numels if -(-numel // setup.world_size) % 8]
    if not hit:
        return "safe by setting", f"each of {setup.world_size} ranks holds a multiple of 8 of every parameter"
    return "yes", f"{why}; {len(hit)} of {len(setup.numels)} parameters are such"


def padded(setup: Setup, why: str) -> Finding:
    if setup.world_size is None or setup.numels is None:
        return "unknown", f"{why}; give --world-size and the model's parameter sizes"
    hit = [numel for numel in setup.numels if numel % setup.world_size]
    if not hit:
        return "safe by setting", f"all {len(setup.numels)} parameter sizes divide by {setup.world_size}"
    return "yes", f"{why}; {len(hit)} of {len(setup.numels)} parameters are padded"


JUDGES: dict[str, Judge] = {
    judge.__name__: judge
    for judge in (
        possible,
        race,
        missing_copy,
        tiny,
        dirty,
        offload,
        step,
        write_between_passes,
        placement,
        multiple_of_8,
        padded,
    )
}
