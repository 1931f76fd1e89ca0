"""A race report as text for a terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from harness.race.explain import TIMED_OUT
from harness.race.report import LABELS, TRAINED_NOTHING, Effect, Held, Race, Report


def text(report: Report, full: bool = False) -> Iterator[str]:
    """The report as lines for a terminal, worst first; `full` adds callers and the rest of the names."""
    yield from summary(report)
    if report.held.accesses_peak:
        yield from _held_text(report.held)
    for race in report.races:
        yield ""
        yield from _race_text(race, full, report.schedules_tried > 0)


def summary(report: Report) -> Iterator[str]:
    """What became of the program, where that is not well, and what was found in as much of it as ran."""
    if report.problems:
        yield f"{report.program} {_became(report)}: {report.problems[0]}"
        yield from (f"problem: {problem}" for problem in report.problems[1:])
    yield f"{'until then, ' if report.problems else ''}{_ran(report)}: {_found(report)}"


def _became(report: Report) -> str:
    """FAILED, STOPPED or TRAINED NOTHING, and when."""
    if report.problems[0].startswith(TRAINED_NOTHING):
        return "TRAINED NOTHING"
    word = "STOPPED" if report.problems[0].startswith(TIMED_OUT) else "FAILED"
    return (
        f"{word} after {_many(report.steps, 'step')}"
        if report.steps
        else f"{word} before its first training step"
    )


def _ran(report: Report) -> str:
    steps = [] if report.steps is None else [_many(report.steps, "step")]
    return ", ".join([report.program, _many(report.ranks, "rank"), *steps, _many(report.ops, "op")])


def _found(report: Report) -> str:
    if not report.ops:
        return "nothing ran, so nothing was analysed"
    kinds = Counter[str](race.kind for race in report.races)
    found = ", ".join(f"{kinds[kind]} {word}" for kind, word in _WORDS.items() if kinds[kind])
    trained = (
        ""
        if report.steps != 0 or report.problems
        else "; no optimizer step was made: it says nothing of training"
    )
    return (found or "no unordered accesses") + trained


def _many(count: int, thing: str) -> str:
    return f"{count} {thing}{'' if count == 1 else 's'}"


def _held_text(held: Held) -> Iterator[str]:
    yield (
        f"the analysis held at most {held.accesses_peak} accesses to {held.storages_peak} storages and "
        f"{held.events_peak} events a rank"
    )
    if held.accesses_forgotten:
        yield f"{held.accesses_forgotten} accesses were forgotten for want of room: a race with them would be missed"


_WORDS = {
    "race": "unordered pair(s) of lines",
    "freed-in-use": "freed while in use",
    "unwritten-read": "read(s) of unwritten memory",
}
_TITLES = {
    "race": "RACE",
    "freed-in-use": "FREED WHILE IN USE",
    "unwritten-read": "READ OF UNWRITTEN MEMORY",
}


def _race_text(race: Race, full: bool, searched: bool) -> Iterator[str]:
    names = list(race.names)
    shown = ", ".join(names if full else names[:3]) + (" …" if len(names) > 3 and not full else "")
    yield f"{_TITLES[race.kind]} {race.id} ×{race.count} on {ranks_text(race.ranks)}: {shown}"
    if race.label:
        yield f"  known as {race.label}: {LABELS[race.label]}"
    for access in (race.first,) if race.kind == "unwritten-read" else (race.first, race.second):
        yield f"  {access.access} {access.op} on {access.stream}, bytes {access.low}–{access.high - 1}"
        for place in access.site if full else access.site[:2]:
            yield f"      {place}"
            if place.code:
                yield f"          {place.code}"
    if race.effect:
        yield f"  {effect_text(race.effect)}"
        yield from (f"    {line}" for line in race.effect.story)
    elif searched:
        reason = (
            "the budget of races was spent" if race.kind == "race" else "only unordered pairs can be swapped"
        )
        yield f"  effect: not searched ({reason})"


def effect_text(effect: Effect) -> str:
    replay = f"; replay: hpz race --replay {effect.replay}" if effect.replay else ""
    if not effect.found and effect.also:
        return (
            f"effect: none found of these accesses alone in {effect.schedules} schedules; the program's values change "
            f"under {', '.join(effect.also)}{replay}"
        )
    if not effect.found:
        return f"effect: none found in the budget ({effect.schedules} schedules)"
    return f"effect: {effect.changed} under {effect.schedule}{replay}"


def ranks_text(ranks: Sequence[int]) -> str:
    """`rank 2`, `ranks 0–3` or `ranks 0, 2`."""
    if len(ranks) == 1:
        return f"rank {ranks[0]}"
    if list(ranks) == list(range(ranks[0], ranks[-1] + 1)):
        return f"ranks {ranks[0]}–{ranks[-1]}"
    return f"ranks {', '.join(map(str, ranks))}"
