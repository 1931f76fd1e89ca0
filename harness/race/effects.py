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
            yield race, Effect(found=False, schedules=search.tried, also=changing), policy
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
    pairs = zip(reference.digests, outcome.digests, strict=False)
    ranks = [rank for rank, (right, wrong) in enumerate(pairs) if right != wrong]
    return f"the final values of {ranks_text(ranks)} change"


def _short(number: str) -> str:
    return "not finite" if number == "None" else number[:9]
