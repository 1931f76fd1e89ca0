"""Policies: how the virtual device orders work that nothing orders.

A policy never breaks an order that the program asked for: it chooses only among ops that are ready, that is, ops at
the head of their stream with everything that they wait for done.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from harness.system.errors import HarnessError

if TYPE_CHECKING:
    from harness.device.streams import Machine, Op, Stream


class Policy:
    """Base of all policies: nothing runs before something waits for it, then in the order of stream creation.

    To add one (a cost model's clock, a scripted schedule), override `starts` and `rank` and put a factory into
    POLICIES. Every rank must take the same decisions about collectives, or real collectives wait for each other
    for ever: decide by what is equal on all ranks (stream, collective count), and draw random numbers in
    `at_collective` alone, where all ranks stand at the same point.
    """

    immediate = False  # True: every op runs as it is issued; nothing is ever deferred
    lags = False  # True: a query finds an event pending until the host has waited for it, as on a busy device

    def starts(self, op: Op) -> bool:
        """Whether a ready op runs although nothing waits for it yet."""
        return False

    def rank(self, op: Op) -> Any:
        """Sort key among ready ops that must run; the lowest goes first."""
        return op.stream.id

    def at_collective(self, machine: Machine) -> None:
        """Called after each collective is issued."""

    def begin(self, machine: Machine) -> None:
        """Called when the machine starts to use the policy."""

    def widen(self, machine: Machine, needed: dict[Stream, int]) -> dict[Stream, int]:
        """What runs when `needed` (stream → position) must: that, and whatever the policy puts before it."""
        return needed


class Eager(Policy):
    """Each op runs when it is issued: the order of plain CPU."""

    immediate = True


class SideFirst(Policy):
    """Side streams run as soon as they may, the default stream as late as it may: a side stream reads too early."""

    def starts(self, op: Op) -> bool:
        return op.stream.id != 0

    def rank(self, op: Op) -> Any:
        return -op.stream.id


class MainFirst(Policy):
    """The default stream runs as soon as it may, side streams as late as they may: side work comes too late."""

    def starts(self, op: Op) -> bool:
        return op.stream.id == 0


class RandomOrder(Policy):
    """At each collective every stream may catch up with one of its recent points; priorities are drawn anew."""

    REACH = 8  # how many collectives back a stream may catch up with
    CHANCE = 0.5  # of a stream to move at one collective

    def __init__(self, seed: int | str) -> None:
        self.random = random.Random(seed)
        self.marks: list[dict[int, int]] = []  # per recent collective: stream id → ops issued
        self.priority: dict[int, float] = {}

    def rank(self, op: Op) -> Any:
        return self.priority.get(op.stream.id, 1.0), op.stream.id

    def at_collective(self, machine: Machine) -> None:
        self.marks = [*self.marks[1 - self.REACH :], {s.id: s.issued for s in machine.streams}]
        # The number of draws depends on the number of streams alone, so that ranks stay in step.
        self.priority = {stream.id: self.random.random() for stream in machine.streams}
        for stream in machine.streams:
            moves, mark = self.random.random() < self.CHANCE, self.random.randrange(self.REACH)
            if moves:
                machine.run_until(stream, self.marks[-1 - mark % len(self.marks)].get(stream.id, 0))


POLICIES: dict[str, Callable[[], Policy]] = {"eager": Eager, "side-first": SideFirst, "main-first": MainFirst}


def parse_policy(text: str, seed: int = 0) -> Policy:
    """The policy of that name; `random(n)` depends on n and on the run's seed. Raises HarnessError."""
    if text in POLICIES:
        return POLICIES[text]()
    if match := re.fullmatch(r"random\((\d+)\)", text):
        return RandomOrder(f"{match[1]}/{seed}")
    if match := re.fullmatch(r"timed(?:\((\d+)((?:,[\w.-]+){0,2})\))?", text):
        from harness.clock.timed import Timed, clocked

        return Timed(float(match[1] or 1), clocked(*(match[2] or "").split(",")[1:]))
    raise HarnessError(
        f"policy {text!r} is not known here; use one of {', '.join(POLICIES)}, random(SEED), timed or "
        "timed(SCALE,NETWORK,GPU)"
    )
