"""What a search means for each race: the effect that was found, in words, and the schedule that is kept for it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from harness.race.explore import Found, Search
from harness.race.job import Flip, Outcome
from harness.race.report import Effect, Race, Report
from harness.race.text import ranks_text


def effects(report: Report, search: Search) -> Iterator[tuple[Race, Effect, Found | None]]:
    """For each race that was searched, what was found; see `Effect.schedules` for how far."""
    for race in report.races:
        if race.id not in search.searched:
            continue
        # The named policies run on an allocator that never hands out a block in use.
        changing = tuple(search.policies) if race.kind == "race" else ()
        found = search.found.get(race.id)
        if found is None:
            policy = policy_found(search) if changing else None
            compared = search.reference.covered != "nothing"
            effect = Effect(found=False, schedules=search.tried, also=changing, compared=compared)
            if policy is not None:
                failing = (name for name in changing if search.policies[name][1].problem is not None)
                changed = what_changed(policy.reference, policy.outcome)
                effect = effect.model_copy(update={"failing": tuple(failing), "changed": changed})
            yield race, effect, policy
        else:
            effect = Effect(
                found=True,
                schedules=search.tried,
                schedule=in_words(found.job.flips),
                decisions=len(found.job.flips),
                changed=what_changed(found.reference, found.outcome),
                also=changing,
            )
            yield race, effect, found


def policy_found(search: Search) -> Found:
    """The first named policy that changes values, for all races whose own pairs show nothing."""
    job, outcome = next(iter(search.policies.values()))
    open_races = sorted(search.searched - search.found.keys())
    return Found(tuple(open_races), job, outcome, search.reference)


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
    if ranks := _unlike(reference.digests, outcome.digests):
        return f"the final values of {ranks_text(ranks)} change"
    return what_was_read(reference, outcome, _unlike(reference.reads, outcome.reads))


def _unlike(right: Sequence[str | None], wrong: Sequence[str | None]) -> list[int]:
    """The ranks of which the two are not the same."""
    return [rank for rank, (one, other) in enumerate(zip(right, wrong, strict=False)) if one != other]


def what_was_read(reference: Outcome, outcome: Outcome, ranks: Sequence[int]) -> str:
    """The first number that the host of a rank read otherwise, else the ranks whose host read something else."""
    for rank in ranks:
        right, wrong = reference.reports[rank].reads, outcome.reports[rank].reads
        for one, other in zip(right.first, wrong.first, strict=False) if right and wrong else ():
            if one != other:
                change = f"is {_short(other.value)} instead of {_short(one.value)}"
                return f"what rank {rank} reads at {other.place} {change}"
    return f"what the host of {ranks_text(ranks)} reads changes"


def _short(number: str) -> str:
    return "not finite" if number == "None" else number[:9]
