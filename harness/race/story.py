"""A found schedule as a short story: which op ran before which, on what memory, and what came of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from harness.race.job import Flip
from harness.race.report import Access, Effect, Instance, Race
from harness.race.text import ranks_text

TOLD = 4  # swaps told in full


def story(races: Sequence[Race], flips: Sequence[Flip], effect: Effect) -> Iterator[str]:
    """The swaps of a schedule in words. `races` are all that the schedule may flip."""
    for flip in flips[:TOLD]:
        for race in races:
            if cases := cases_of(race, flip):
                yield swap(race, cases)
                break
    if len(flips) > TOLD:
        yield f"and {len(flips) - TOLD} more such swaps"
    if effect.changed:
        yield f"so {effect.changed}"


def cases_of(race: Race, flip: Flip) -> dict[int, Instance]:
    """The case that a flip turns around, on each rank that has it."""
    found = {}
    for rank, cases in race.cases.items():
        for case in cases:
            if (case.first, case.second) == (flip.hold, flip.until):
                found[rank] = case
                break
    return found


def swap(race: Race, cases: dict[int, Instance]) -> str:
    """`ranks 0–3: cat on allgather_stream read layers.1.v_proj bytes 0–4095 before copy_ on compute wrote them`."""
    case = next(iter(cases.values()))
    late, early = race.first, race.takeover or race.second
    when = "" if case.step is None else f" in step {case.step}"
    return (
        f"{ranks_text(sorted(cases))}: {early.op} on {early.stream} {did(early)} {case.name} "
        f"bytes {case.low}–{case.high - 1}{when} before {late.op} on {late.stream} {did(late)} them "
        f"(ops {case.second} and {case.first}; {early.place} and {late.place})"
    )


def did(access: Access) -> str:
    return {"READ": "read", "WRITE": "wrote", "FREE": "freed"}[access.access]
