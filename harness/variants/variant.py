"""What a variant is: a point of the ablation, and its name."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product
from typing import Literal, get_args

from harness.system.errors import HarnessError, nearest

Copy = Literal["old", "new"]
Order = Literal["none", "stream-sync", "device-sync", "event"]
Step = Literal["none", "event"]
Load = Literal["none", "event"]

COPIES: tuple[Copy, ...] = get_args(Copy)
ORDERS: tuple[Order, ...] = get_args(Order)
STEPS: tuple[Step, ...] = get_args(Step)
LOADS: tuple[Load, ...] = get_args(Load)
AXES: dict[str, tuple[str, ...]] = {"copy": COPIES, "order": ORDERS, "step": STEPS, "load": LOADS}
EVENT_AXES = ("step", "load")
"""The axes that concern ZeRO-3 without hpZ as well; each is an event or nothing."""


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One point of copy × order × step × load, or ZeRO-3 without hpZ (whose copy and order are never executed)."""

    hpz: bool = True
    """Whether hpZ's secondary partition is used at all."""
    copy: Copy = "new"
    """The copy into the secondary tensor: before (old) or since (new) DeepSpeed #5216."""
    order: Order = "stream-sync"
    """What makes the all-gather see the finished copy: nothing, a host wait (stream or device), an event."""
    step: Step = "none"
    """Whether the all-gather stream waits for the optimizer step's write to the 16-bit partitions."""
    load: Load = "none"
    """Whether it waits, where a forward pass starts, for what was written to them since the last one: a checkpoint that
    was loaded, GatheredParameters, a user's own average."""

    def __post_init__(self) -> None:
        for axis, valid in AXES.items():
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
        """The canonical name: a word of its own where it has one, else `COPY+ORDER` and what `ends` says."""
        return _NAMES.get(self) or f"{self.copy}+{self.order}{self.ends}"

    @property
    def ends(self) -> str:
        """`+step` and `+load`, each where it is set."""
        return "".join(f"+{axis}" for axis in EVENT_AXES if getattr(self, axis) == "event")

    def at(self, axis: str, value: str) -> Variant:
        """This variant with another value on one axis."""
        return replace(self, **{axis: value})  # type: ignore[arg-type]

    @classmethod
    def parse(cls, text: str) -> Variant:
        """The variant called `text`; axis values joined by `+` do as well. Raises HarnessError."""
        wanted = text.strip().lower()
        if wanted in _SPELLINGS:
            return _SPELLINGS[wanted]
        raise HarnessError(f"{text!r} is not a variant; {nearest(wanted, [v.name for v in all_variants()])}")

    def __str__(self) -> str:
        return self.name


_WORDS: dict[str, Variant] = {
    "zero3": Variant(hpz=False),
    "stock": Variant(copy="old", order="none"),
    "unordered": Variant(copy="new", order="none"),
    "sync-only": Variant(copy="old", order="stream-sync"),
    "fixed": Variant(),
    "device-sync": Variant(order="device-sync"),
    "event": Variant(order="event"),
}
NAMED: dict[str, Variant] = {
    **_WORDS,
    "zero3+step": Variant(hpz=False, step="event"),
    "zero3+load": Variant(hpz=False, load="event"),
    "zero3+step+load": Variant(hpz=False, step="event", load="event"),
    "event+step": Variant(order="event", step="event"),
    "event+load": Variant(order="event", load="event"),
    "event+step+load": Variant(order="event", step="event", load="event"),
}
_NAMES = {variant: name for name, variant in NAMED.items()}


def all_variants() -> list[Variant]:
    """All 36 variants: ZeRO-3 without hpZ, then copy × order; each with every choice of step × load."""
    orders = list(product(STEPS, LOADS))
    plain = [Variant(hpz=False, step=s, load=w) for s, w in orders]
    return plain + [
        Variant(copy=c, order=o, step=s, load=w) for c, o, (s, w) in product(COPIES, ORDERS, orders)
    ]


def _spellings() -> dict[str, Variant]:
    """Every accepted name: canonical ones, and a word or `COPY+ORDER` with any ends."""
    spellings = {variant.name: variant for variant in all_variants()}
    words = {replace(variant, step="none", load="none"): word for word, variant in _WORDS.items()}
    for variant in all_variants():
        word = words.get(replace(variant, step="none", load="none"))
        starts = [word] if word else []
        starts += [f"{variant.copy}+{variant.order}"] if variant.hpz else []
        spellings |= {f"{start}{variant.ends}": variant for start in starts}
    return spellings


_SPELLINGS = _spellings()
