"""Looks for a legal schedule under which a race changes values, and shrinks what it finds to the few swaps that matter.

What a schedule can change, it changes by the order of conflicting pairs (Mazurkiewicz traces), and the analysis has
listed them. So besides the named policies and random seeds the search flips listed pairs only: all of one race at
once, then, where that shows nothing, a few of them one by one, then those of all races together. Whatever changes the
final values is shrunk by ddmin, and counts only where its pairs were really executed in the other order.

A block that is freed while in use matters once somebody else is given it. Pairs of such races are flipped on an
allocator that hands freed blocks out at once (poison `stale`), and their values compared with those of the program on
that allocator in the order of issue.

By its mode a search runs, in place of the named policies, schedules of random priorities (PCT), which promise something
of what was not met, or one schedule for each class of them (harness.race.classes), as many as may be tried. Otherwise
it is complete for nothing: "none found" says that so many schedules were tried.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from harness.race.classes import Class, classes
from harness.race.job import Flip, Job, Outcome
from harness.race.minimise import minimise
from harness.race.repeat import Run
from harness.race.report import HOST_STREAM, Race
from harness.race.searched import Bound, Classes, Mode

REUSING = "stale"  # the poison, and with it the allocator
LISTED = 4096  # classes that are counted


@dataclass(frozen=True)
class Budget:
    """How many schedules may be tried."""

    seeds: int = 2  # random policies
    races: int = 12  # races whose pairs are flipped
    single: int = 3  # pairs of one race that are flipped one by one, where all at once shows nothing
    shrink: int = 8  # schedules to shrink one found schedule
    mode: Mode = "named"
    schedules: int = 64  # of mode `pct`: of random priorities; of `exhaustive`: classes
    depth: int = 2  # of the faults that `pct` is to meet: how many orders must come together

    def asked(self) -> dict[str, Any]:
        """As reports keep it; what the mode does not look at is left out, as it was before there were modes."""
        unused = ("mode", "schedules", "depth") if self.mode == "named" else ("seeds",)
        return {name: value for name, value in asdict(self).items() if name not in unused}


@dataclass
class Found:
    """A schedule under which values differ from the reference, shrunk; a named policy has no flips."""

    races: tuple[str, ...]  # ids
    job: Job
    outcome: Outcome
    reference: Outcome


@dataclass
class Search:
    """One search over the schedules of one program; every execution is counted."""

    reference: Outcome
    job: Job
    run: Run
    budget: Budget
    tried: int = 0
    searched: set[str] = field(default_factory=set)  # ids of the races whose pairs were flipped
    policies: dict[str, tuple[Job, Outcome]] = field(
        default_factory=dict
    )  # schedule by its name → values change
    found: dict[str, Found] = field(default_factory=dict)  # race id → its schedule
    began: float = field(default_factory=time.monotonic)  # of the whole work, imports included
    seconds: float | None = None  # until the first failing schedule was minimised
    bound: Bound | None = None
    classes: Classes | None = None
    reusing: Outcome | None = None  # the order of issue on an allocator that hands freed blocks out at once

    def reference_of(self, job: Job) -> Outcome:
        """What the values of a schedule are compared with."""
        if job.poison != REUSING or self.job.poison == REUSING:
            return self.reference
        if self.reusing is None:
            self.reusing = self.run(self.job.under("scripted", poison=REUSING))
        return self.reusing

    def changes(self, job: Job) -> Outcome | None:
        """Run a schedule; the outcome where the program fails or its final values differ, else None."""
        self.tried += 1
        return self.changed(job, self.run(job))

    def changed(self, job: Job, outcome: Outcome) -> Outcome | None:
        """The outcome of a schedule, where it shows something."""
        return outcome if has_changed(self.reference_of(job), outcome) else None

    def named_policies(self) -> None:
        """side-first, main-first and the random seeds."""
        for policy in [
            "side-first",
            "main-first",
            *(f"random({seed + 1})" for seed in range(self.budget.seeds)),
        ]:
            job = self.job.under(policy)
            if (outcome := self.changes(job)) is not None:
                self.policies[policy] = job, outcome

    def random_priorities(self) -> None:
        """As many schedules of PCT as may be tried; those that came to their end count for its bound."""
        reports, ended, budget = self.reference.reports, 0, self.budget
        ops = max((report.ops for report in reports), default=0)
        streams = max((report.coverage.streams for report in reports), default=0)
        for seed in range(budget.schedules):
            job = self.job.under(f"pct({seed + 1},{budget.depth},{max(1, ops)})")
            self.tried += 1
            outcome = self.run(job)
            if self.changed(job, outcome) is not None:
                self.policies[job.policy] = job, outcome
            ended += outcome.problem is None or job.policy in self.policies
        self.bound = Bound.of(ended, budget.depth, ops, streams)

    def each_class(self, races: Sequence[Race]) -> None:
        """One schedule for each class, those with fewest swaps first; the order of issue has run."""
        reference = self.reference
        listed, counted = classes(reference.pairs, reference.before, LISTED)
        run, changing, missed, branched = 1, 0, 0, 0
        for one in listed[1 : self.budget.schedules]:
            job = self.job.under("ordered", directed(one), order=True)
            self.tried += 1
            outcome = self.run(job)
            changed = self.changed(job, outcome) is not None
            as_asked = changed or came_out(one, outcome)
            run, missed, changing = run + as_asked, missed + (not as_asked), changing + changed
            branched += outcome.problem is None and outcome.issued != reference.issued
            if changed:
                self._keep_class(
                    f"class {changing} with {len(one.swapped)} swapped pairs", job, outcome, one, races
                )
        self.classes = Classes(
            pairs=len(reference.pairs),
            total=len(listed),
            counted=counted,
            run=run,
            changing=changing,
            missed=missed,
            branched=branched,
        )

    def _keep_class(self, name: str, job: Job, outcome: Outcome, one: Class, races: Sequence[Race]) -> None:
        """A class that changes values: its swapped pairs, shrunk, are the schedule of their races."""
        self.policies[name] = job, outcome
        flips = [Flip(first, second if second >= 0 else ~second) for first, second in one.swapped]
        involved = [race for race in races if race.id not in self.found and {*flips} & {*flips_of(race)}]
        listed = [flip for flip in flips if any(flip in flips_of(race) for race in involved)]
        if listed:
            self._flip(involved, listed)

    def each_race(self, races: Sequence[Race]) -> None:
        """Flip all pairs of one race at once; where that shows nothing or stalls the ranks, a few of them singly."""
        for race in races[: self.budget.races]:
            flips = flips_of(race)
            singly = [[flip] for flip in spread(flips, self.budget.single)] if len(flips) > 1 else []
            for chosen in (flips, *singly):
                if self._flip((race,), chosen):
                    break

    def together(self, races: Sequence[Race]) -> None:
        """Flip the pairs of all races at once: an effect may need several."""
        missing = [race for race in races[: self.budget.races] if race.id not in self.found]
        if len(missing) > 1:
            self._flip(missing, sorted({flip for race in missing for flip in flips_of(race)}))

    def _flip(self, races: Sequence[Race], flips: Sequence[Flip]) -> bool:
        """Whether these flips change values; what is left of them after shrinking becomes the races' schedule."""
        ids = tuple(race.id for race in races)
        self.searched.update(ids)
        freed = any(race.kind == "freed-in-use" for race in races)
        poison = REUSING if freed else self.job.poison

        def under(kept: Sequence[Flip], **watched: bool) -> Job:
            return self.job.under("scripted", kept, poison=poison, **watched)

        if self.changes(under(flips)) is None:
            return False
        few = minimise(flips, lambda kept: self.changes(under(kept)) is not None, self.budget.shrink)
        job = under(few, excerpt=True)
        outcome = self.run(job)
        if not all(turned_around(flip, races, outcome.order) for flip in few):
            return False
        if self.seconds is None:
            self.seconds = time.monotonic() - self.began
        self.found |= dict.fromkeys(ids, Found(ids, job, outcome, self.reference_of(job)))
        return True


def turned_around(flip: Flip, races: Sequence[Race], order: Mapping[int, int]) -> bool:
    """Whether rank 0 ran the pair in the other order; taken as true where it has no part in the race."""
    race = next(race for race in races if flip in flips_of(race))
    if 0 not in race.ranks:
        return True
    second = ~flip.until if race.second.stream == HOST_STREAM else flip.until
    never = len(order)
    return order.get(second, never) < order.get(flip.hold, never)


def spread(flips: Sequence[Flip], count: int) -> list[Flip]:
    """At most `count` of them, the last (which the program's end is nearest to) first, evenly apart."""
    step = max(1, len(flips) // max(1, count))
    return list(reversed(flips))[::step][:count]


def has_changed(reference: Outcome, outcome: Outcome) -> bool:
    """Whether a schedule shows something: the program fails, or ends with other values.

    Ranks that end up waiting for each other show nothing: on a device with real streams they would not.
    """
    if outcome.problem is not None:
        return outcome.problem.startswith("rank ")
    return differs(reference, outcome)


def differs(reference: Outcome, outcome: Outcome) -> bool:
    read = reference.reads and reference.reads != outcome.reads
    return bool(reference.digests != outcome.digests or reference.losses != outcome.losses or read)


def flips_of(race: Race) -> list[Flip]:
    """The flips that turn the listed cases of a race around, the same on all ranks."""
    return sorted({Flip(case.first, case.second) for cases in race.cases.values() for case in cases})


def explore(
    races: Sequence[Race], reference: Outcome, job: Job, run: Run, budget: Budget, began: float | None = None
) -> Search:
    """Search the schedules of a program for effects of these races; `reference` is its eager execution.

    `began` is the moment (time.monotonic) from which seconds are counted; default now.
    """
    search = Search(reference, job, run, budget, began=time.monotonic() if began is None else began)
    races = [race for race in races if race.kind != "unwritten-read" and flips_of(race)]
    unordered = [race for race in races if race.kind == "race"]
    if unordered and budget.mode == "exhaustive":
        search.each_class(unordered)
    search.each_race([race for race in races if race.id not in search.found])
    if unordered and budget.mode == "pct":
        search.random_priorities()
    elif unordered and budget.mode == "named":
        search.named_policies()
    if search.policies and not search.found:
        search.together(unordered)
    return search


def directed(one: Class) -> list[Flip]:
    """The flips of a schedule of this class: each pair's later op is held for its earlier one; the host holds nothing.

    An op that is to run after an access of the host is held for the op that the host issues next.
    """
    swapped = [Flip(first, second if second >= 0 else ~second) for first, second in one.swapped]
    return [*swapped, *(Flip(second, first) for first, second in one.kept if second >= 0)]


def came_out(one: Class, outcome: Outcome) -> bool:
    """Whether rank 0 ran every pair as the class has it."""
    order, never = outcome.order, len(outcome.order)
    ran = [(order.get(first, never), order.get(second, never)) for first, second in one.kept]
    ran += [(order.get(second, never), order.get(first, never)) for first, second in one.swapped]
    return outcome.problem is None and all(early <= late for early, late in ran)
