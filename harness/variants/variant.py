"""What a variant is: a point of the ablation, and its name."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Literal, get_args

from harness.system.errors import HarnessError, nearest

Copy = Literal["old", "new"]
Order = Literal["none", "stream-sync", "device-sync", "event"]
Step = Literal["none", "event"]

COPIES: tuple[Copy, ...] = get_args(Copy)
ORDERS: tuple[Order, ...] = get_args(Order)
STEPS: tuple[Step, ...] = get_args(Step)


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One point of copy × order × step, or ZeRO-3 without hpZ (whose copy and order are never executed)."""

    hpz: bool = True
    """Whether hpZ's secondary partition is used at all."""
    copy: Copy = "new"
    """The copy into the secondary tensor: before (old) or since (new) DeepSpeed #5216."""
    order: Order = "stream-sync"
    """What makes the all-gather see the finished copy: nothing, a host wait (stream or device), an event."""
    step: Step = "none"
    """Whether the all-gather stream waits for the optimizer step's write to the 16-bit partitions."""

    def __post_init__(self) -> None:
        for axis, valid in (("copy", COPIES), ("order", ORDERS), ("step", STEPS)):
            if getattr(self, axis) not in valid:
                raise HarnessError(
                    f"variant: {axis}={getattr(self, axis)!r} is not one of {', '.join(valid)}"
                )
        if not self.hpz and (self.copy, self.order) != ("new", "stream-sync"):
            raise HarnessError(
                "variant: without hpZ there is no secondary copy, so copy and order cannot be set"
            )

    @property
    def name(self) -> str:
        """The canonical name: a word of its own where it has one, else `COPY+ORDER` or `COPY+ORDER+step`."""
        return _NAMES.get(self) or f"{self.copy}+{self.order}" + ("+step" if self.step == "event" else "")

    @classmethod
    def parse(cls, text: str) -> Variant:
        """The variant called `text`; axis values joined by `+` do as well. Raises HarnessError."""
        wanted = text.strip().lower()
        if wanted in _SPELLINGS:
            return _SPELLINGS[wanted]
        raise HarnessError(f"{text!r} is not a variant; {nearest(wanted, [v.name for v in all_variants()])}")

    def __str__(self) -> str:
        return self.name


NAMED: dict[str, Variant] = {
    "zero3": Variant(hpz=False),
    "stock": Variant(copy="old", order="none"),
    "unordered": Variant(copy="new", order="none"),
    "sync-only": Variant(copy="old", order="stream-sync"),
    "fixed": Variant(),
    "device-sync": Variant(order="device-sync"),
    "event": Variant(order="event"),
    "zero3+step": Variant(hpz=False, step="event"),
    "event+step": Variant(order="event", step="event"),
}
_NAMES = {variant: name for name, variant in NAMED.items()}


def all_variants() -> list[Variant]:
    """All 18 variants: ZeRO-3 with and without the step event, then copy × order × step."""
    points = [Variant(copy=c, order=o, step=s) for c, o, s in product(COPIES, ORDERS, STEPS)]
    return [NAMED["zero3"], NAMED["zero3+step"], *points]


def _spellings() -> dict[str, Variant]:
    """Every accepted name: canonical ones, `COPY+ORDER[+step]`, and a named variant followed by `+step`."""
    plain = [v for v in all_variants() if v.step == "none"]
    spellings = {f"{v.copy}+{v.order}": v for v in plain if v.hpz} | {v.name: v for v in plain}
    ends = {
        f"{name}+step": Variant(hpz=v.hpz, copy=v.copy, order=v.order, step="event")
        for name, v in spellings.items()
    }
    return spellings | ends


_SPELLINGS = _spellings()
