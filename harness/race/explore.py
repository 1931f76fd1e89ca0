"""Looks for a legal schedule under which a race changes values, and shrinks what it finds to the few swaps that matter.

What a schedule can change, it changes by the order of conflicting pairs (Mazurkiewicz traces), and the analysis has
listed all of them. So besides the named policies and random seeds the search flips listed pairs only: all of one
race, then, where none matters alone, all together. Whatever changes the final values is shrunk by ddmin.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from harness.race.launch import Flip, Job, Outcome
from harness.race.minimise import minimise
from harness.race.report import Effect, Race, Report, ranks_text

Run = Callable[[Job], Outcome]


@dataclass(frozen=True)
class Budget:
    """How many schedules may be tried."""

    seeds: int = 2  # random policies
    races: int = 12  # races whose pairs are flipped
    shrink: int = 8  # schedules to shrink one found schedule


@dataclass
class Found:
    """A schedule under which values differ from the reference, before and after shrinking."""

    races: tuple[str, ...]  # ids
    job: Job
    outcome: Outcome


@dataclass
class Search:
    """One search over the schedules of one program; every execution is counted."""

    reference: Outcome
    job: Job
    run: Run
    budget: Budget
    tried: int = 0
    searched: set[str] = field(default_factory=set)  # ids of the races whose pairs were flipped
    policies: dict[str, bool] = field(default_factory=dict)  # named policy → whether values changed
    found: dict[str, Found] = field(default_factory=dict)  # race id → its schedule

    def changes(self, job: Job) -> Outcome | None:
        """Run a schedule; the outcome where the program fails or its final values differ, else None.

        Ranks that end up waiting for each other show nothing: on a device with real streams they would not.
        """
        self.tried += 1
        outcome = self.run(job)
        if outcome.problem is not None:
            return outcome if outcome.problem.startswith("rank ") else None
        return outcome if differs(self.reference, outcome) else None

    def named_policies(self) -> None:
        """side-first, main-first and the random seeds."""
        names = ["side-first", "main-first", *(f"random({seed + 1})" for seed in range(self.budget.seeds))]
        for policy in names:
            self.policies[policy] = self.changes(self.job.under(policy)) is not None

    def each_race(self, races: Sequence[Race]) -> None:
        """Flip all pairs of one race at a time."""
        for race in races[: self.budget.races]:
            self._flip((race.id,), flips_of(race))

    def together(self, races: Sequence[Race]) -> None:
        """Flip the pairs of all races at once: an effect may need several."""
        missing = [race for race in races[: self.budget.races] if race.id not in self.found]
        if len(missing) > 1:
            self._flip(
                tuple(race.id for race in missing),
                sorted({flip for race in missing for flip in flips_of(race)}),
            )

    def _flip(self, ids: tuple[str, ...], flips: Sequence[Flip]) -> None:
        self.searched.update(ids)
        outcome = self.changes(self.job.under("scripted", flips)) if flips else None
        if outcome is None:
            return
        few = minimise(
            flips,
            lambda kept: self.changes(self.job.under("scripted", kept)) is not None,
            self.budget.shrink,
        )
        job = self.job.under("scripted", few, excerpt=True)
        for race in ids:
            self.found[race] = Found(ids, job, self.run(job))


def differs(reference: Outcome, outcome: Outcome) -> bool:
    return reference.digests != outcome.digests or reference.losses != outcome.losses


def flips_of(race: Race) -> list[Flip]:
    """The flips that turn the listed cases of a race around, the same on all ranks."""
    return sorted({Flip(case.first, case.second) for cases in race.cases.values() for case in cases})


def explore(races: Sequence[Race], reference: Outcome, job: Job, run: Run, budget: Budget) -> Search:
    """Search the schedules of a program for effects of these races; `reference` is its eager execution."""
    search = Search(reference, job, run, budget)
    races = [race for race in races if race.kind == "race" and flips_of(race)]
    if races:
        search.named_policies()
        search.each_race(races)
        if any(search.policies.values()) and not search.found:
            search.together(races)
    return search


def effects(report: Report, search: Search) -> Iterator[tuple[Race, Effect, Found | None]]:
    """For each race that was searched, what was found; see `Effect.schedules` for how far."""
    changing = [policy for policy, changed in search.policies.items() if changed]
    for race in report.races:
        if race.id not in search.searched:
            continue
        found = search.found.get(race.id)
        if found is None:
            yield race, Effect(found=False, schedules=search.tried, also=tuple(changing)), None
        else:
            effect = Effect(
                found=True,
                schedules=search.tried,
                schedule=in_words(found.job.flips),
                decisions=len(found.job.flips),
                changed=what_changed(search.reference, found.outcome),
                also=tuple(changing),
            )
            yield race, effect, found


def in_words(flips: Sequence[Flip]) -> str:
    count = len(flips)
    shown = ", ".join(f"op {flip.until} before op {flip.hold}" for flip in flips[:3])
    return f"{count} swapped pair{'s' if count > 1 else ''} ({shown}{' …' if count > 3 else ''})"


def what_changed(reference: Outcome, outcome: Outcome) -> str:
    """The first difference that a reader can check: a failure, a step's loss, or the ranks whose values differ."""
    if outcome.problem is not None:
        return f"the program fails ({outcome.problem})"
    for step, (right, wrong) in enumerate(zip(reference.losses, outcome.losses, strict=False)):
        if right != wrong:
            return f"the loss of step {step} is {_short(wrong)} instead of {_short(right)}"
    pairs = zip(reference.digests, outcome.digests, strict=False)
    ranks = [rank for rank, (right, wrong) in enumerate(pairs) if right != wrong]
    return f"the final values of {ranks_text(ranks)} change"


def _short(number: str) -> str:
    return "not finite" if number == "None" else number[:9]
