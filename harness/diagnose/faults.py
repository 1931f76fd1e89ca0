"""The known faults of hpZ by DeepSpeed release, and which of them a configuration is exposed to.

They look alike from outside (NaN, zero or stuck loss); release, sizes and settings tell them apart. The windows are
what the sources of all releases show (`harness.diagnose.evidence`); those of offload and hang are what was reported.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from harness.configuration import FIRST
from harness.diagnose import judges
from harness.diagnose.judges import Answer, Finding
from harness.diagnose.setup import Setup, check

UPSTREAM = "deepspeedai/DeepSpeed"
OWN = "found by this project on the virtual device; not confirmed on a GPU"

Window = tuple[str, str | None]
"""First and last release; None where the newest is in it."""


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


@dataclass(frozen=True, kw_only=True)
class Fault:
    """A known fault: the releases that have it, and a predicate for those."""

    name: str
    windows: tuple[Window, ...]
    """The releases that have it, oldest first."""
    source: str
    judge: Callable[[Setup], Finding]
    """Asked only for a release that has the fault and, where `hpz_only`, with hpZ on."""
    hpz_only: bool = True
    gaps: tuple[tuple[Window, str], ...] = ()
    """Releases between the windows, and why they do not have it."""

    def within(self, setup: Setup) -> bool:
        """Whether the setup's release has it."""
        return any(setup.within(*window) for window in self.windows)


def exposures(setup: Setup) -> list[Exposure]:
    """What `setup` is exposed to, one answer per known fault. Raises HarnessError for an unusable configuration."""
    check(setup)
    return [_expose(fault, setup) for fault in FAULTS]


def _expose(fault: Fault, setup: Setup) -> Exposure:
    if (fault.hpz_only and setup.hpz <= 1) or not setup.stage3:
        answer, reason, way_out = judges.off(setup)
    elif not setup.within(FIRST, None) and not fault.hpz_only:
        answer, reason, way_out = "unknown", f"releases before {FIRST} were not looked at", ""
    elif not fault.within(setup):
        answer, reason, way_out = "no", f"{setup.release} does not have it; {_elsewhere(fault, setup)}", ""
    else:
        answer, reason, way_out = fault.judge(setup)
    return Exposure(fault=fault.name, exposed=answer, reason=reason, way_out=way_out, source=fault.source)


def _elsewhere(fault: Fault, setup: Setup) -> str:
    """Which releases have it, and why this one, between them, does not."""
    windows = " and ".join(_words(*window) for window in fault.windows)
    gap = [f": {reason}" for window, reason in fault.gaps if setup.within(*window)]
    return f"{windows} do" + "".join(gap)


def _words(first: str, last: str | None) -> str:
    if last is None:
        return f"{first} and later"
    return first if first == last else f"{first} to {last}"


FAULTS: tuple[Fault, ...] = (
    Fault(
        name="race",
        windows=(("0.10.0", "0.10.0"), ("0.13.2", "0.13.4")),
        gaps=(
            (
                ("0.10.1", "0.10.2"),
                "nothing orders the copy here either, but only the backward pass reads it, and the host's read of the "
                "loss in engine.backward happens to lie between: covered by luck, not by design",
            ),
            (
                ("0.10.3", "0.13.1"),
                "secondary partitions are written once and kept, so that nothing races (that is the stale secondary)",
            ),
        ),
        source=f"{UPSTREAM}#5059, fixed by #5216",
        judge=judges.race,
    ),
    Fault(
        name="missing copy",
        windows=(("0.10.0", "0.13.4"),),
        source=f"{UPSTREAM}#5216 (its second half)",
        judge=judges.missing_copy,
    ),
    Fault(
        name="stale secondary",
        windows=(("0.10.3", "0.13.1"),),
        source=f"{UPSTREAM}#4851, since #4288, fixed by #4906",
        judge=judges.stale,
    ),
    Fault(
        name="tiny parameters",
        windows=(
            ("0.10.0", "0.13.4"),
            ("0.13.5", "0.19.4"),
        ),  # the old copy and the new one stop at different sizes
        source=f"{UPSTREAM}#6659, #5652 in part, fixed by #8210",
        judge=judges.tiny,
    ),
    Fault(
        name="dirty after load",
        windows=(("0.10.0", "0.18.2"),),
        source=f"{UPSTREAM}#7606, fixed by #7707",
        judge=judges.dirty,
    ),
    Fault(name="offload", windows=(("0.10.0", None),), source=f"{UPSTREAM}#6926", judge=judges.offload),
    Fault(name="hang", windows=(("0.13.2", "0.13.4"),), source=f"{UPSTREAM}#5030", judge=judges.hang),
    Fault(
        name="groups across nodes",
        windows=(("0.10.0", None),),
        source=f"{UPSTREAM}#3784",
        judge=judges.placement,
    ),
    Fault(name="optimizer step", windows=(("0.10.0", None),), source=OWN, judge=judges.step, hpz_only=False),
    Fault(
        name="write between passes",
        windows=(("0.10.0", None),),
        source=OWN,
        judge=judges.write_between_passes,
        hpz_only=False,
    ),
)
