"""What a search has searched, as records, and what that promises: PCT's bound, and classes of schedules that ran."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from pydantic import BaseModel, ConfigDict

Mode = Literal["named", "pct", "exhaustive"]
Covered = Literal["values", "step", "reads", "nothing"]  # what of a program's values is compared
OUT_OF_SCOPE = "races between ranks (one-sided, shared memory) are out of scope"


class Frozen(BaseModel):
    """Base of all records of a report."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Bound(Frozen):
    """Schedules of random priorities that ran to their end, among how much, and what they meet at least."""

    schedules: int
    depth: int
    ops: int  # of the rank that issues most
    streams: int  # likewise; the host comes on top
    probability: float

    @classmethod
    def of(cls, schedules: int, depth: int, ops: int, streams: int) -> Bound:
        probability = bound(ops, streams, depth, schedules)
        return cls(schedules=schedules, depth=depth, ops=ops, streams=streams, probability=probability)


def bound(ops: int, streams: int, depth: int, schedules: int) -> float:
    """The least probability that one of so many schedules meets a fault of that depth.

    Burckhardt and others, ASPLOS 2010: 1/(k·n^(depth-1)) for one schedule, of k threads in n steps. Here `streams` and
    the host are the threads, and each op is a step of the host, which issues it, and one of its stream.
    """
    one = 1 / ((streams + 1) * max(1, 2 * ops) ** (depth - 1))
    return float(1 - (1 - one) ** schedules)


class Classes(Frozen):
    """Classes of schedules, equal in the order of all conflicting pairs that nothing orders, and how many were run."""

    pairs: int  # of ops
    total: int
    counted: bool  # whether `total` is all of them; else there are more
    run: int
    changing: int  # of those, how many change values
    missed: int = 0  # run, but some pair came out in another order than was asked for, as where ranks wait
    branched: int = (
        0  # under which the program issued other ops than in the order of issue: it looks at values
    )


class Searched(Frozen):
    """How schedules were searched, and how far."""

    mode: Mode = "named"
    schedules: int = 0
    seconds_to_failure: float | None = (
        None  # from the start, imports included, to the first one that was minimised
    )
    repeatable: bool | None = None  # whether the order of issue gave the same bits twice; None: not asked
    differs_at: str | None = None  # where not: the first op whose result differed
    numbers: bool = (
        True  # whether a script's global numbers were compared; not, where only they differ each time
    )
    # Its final values; else those after its last step; else what its host read; else nothing.
    covered: Covered = "values"
    bound: Bound | None = None
    classes: Classes | None = None

    def text(self) -> Iterator[str]:
        """What to print of it."""
        if self.repeatable is False:
            yield (
                "NOT REPEATABLE: the same schedule gave other bits, which no order explains (host time, unseeded "
                f"random numbers, threads); it begins at {self.differs_at or 'no op on the device: look at the host'}"
            )
        if not self.numbers:
            yield "numbers among the script's globals differ each time (as times that it took): they are not compared"
        if self.covered != "values":
            yield _COVERED[self.covered]
        if self.bound is not None:
            yield from _bound_text(self.bound)
        if self.classes is not None:
            yield from _classes_text(self.classes)
        if self.seconds_to_failure is not None:
            yield f"first failing schedule, minimised, after {self.seconds_to_failure:.1f} s"
        if self.bound is not None or self.classes is not None:
            yield OUT_OF_SCOPE


_COVERED = {
    "step": "at this program's end its model is gone: compared are the values that it has after its last step",
    "reads": "nothing of this program's values is left on the device at its end: compared is what its host read",
    "nothing": "VALUES NOT COMPARED: nothing of this program's values is left at its end (a model goes with the "
    "function that made it), and its host read none; only a failure would show. Print a loss (loss.item()), keep the "
    "model in the module, or let the program end in its loop: --steps N",
}


def _bound_text(made: Bound) -> Iterator[str]:
    yield (
        f"a fault of depth {made.depth} among {made.ops} ops and {made.streams} streams is met with probability "
        f"at least {made.probability:.2g} in the {made.schedules} schedules that ran (PCT)"
    )


def _classes_text(classes: Classes) -> Iterator[str]:
    many = f"{classes.pairs} unordered pair{'' if classes.pairs == 1 else 's'} of ops"
    if classes.run == classes.total and classes.counted:
        yield f"all {classes.total} classes of this step were run ({many}); {classes.changing} change values"
    else:
        more = "" if classes.counted else "more than "
        yield (
            f"{classes.run} of {more}{classes.total} classes were run ({many}), {more}{classes.total - classes.run} "
            f"are left; {classes.changing} change values"
        )
    if classes.missed:
        yield f"in {classes.missed} of these some pair ran in another order than was asked for, as where ranks wait"
    if classes.branched:
        yield f"under {classes.branched} of them the program issued other ops, whose own classes are not counted"
