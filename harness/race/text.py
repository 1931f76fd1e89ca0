"""A race report as text for a terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from harness.race.explain import TIMED_OUT
from harness.race.report import LABELS, TRAINED_NOTHING, Access, Coverage, Effect, Held, Race, Report
from harness.words import WORDS, counted, explained


def text(report: Report, full: bool = False) -> Iterator[str]:
    """The report as lines for a terminal, worst first, then its words; `full` adds callers and all names."""
    lines = list(_lines(report, full))
    yield from lines
    if report.races:
        yield ""
        yield from (f"{term}: {plain}" for term, plain in explained("\n".join(lines)).items())


def _lines(report: Report, full: bool) -> Iterator[str]:
    yield from summary(report)
    if report.coverage.device_ops:
        yield from _coverage_text(report.coverage)
    if report.held.accesses_forgotten or (full and report.held.accesses_peak):
        yield from _held_text(report.held)
    if report.search is not None:
        yield from report.search.text()
    for kind in dict.fromkeys(race.kind for race in report.races):
        yield f"{_TITLES[kind].lower()}: {WORDS[_TITLES[kind].lower()]}"
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
        f"{word} after {counted(report.steps, 'step')}"
        if report.steps
        else f"{word} before its first training step"
    )


def _ran(report: Report) -> str:
    steps = [] if report.steps is None else [counted(report.steps, "step")]
    return ", ".join([report.program, counted(report.ranks, "rank"), *steps, counted(report.ops, "op")])


def _found(report: Report) -> str:
    if not report.ops:
        return "nothing ran, so nothing was analysed"
    kinds = Counter[str](race.kind for race in report.races)
    found = ", ".join(
        counted(kinds[kind], thing) + what for kind, (thing, what) in _WORDS.items() if kinds[kind]
    )
    if report.steps != 0:
        return found or "no unordered accesses"
    if report.problems:
        return found or "too little to judge"
    return (found or "no unordered accesses") + "; no optimizer step was made: it says nothing of training"


def _coverage_text(seen: Coverage) -> Iterator[str]:
    """What was seen of the run and what was not, by what happened in it."""
    host = f", {counted(seen.host_accesses, 'host access')} to pinned memory" if seen.host_accesses else ""
    threads = f" and {counted(seen.host_threads, 'host thread')}" if seen.host_threads > 1 else ""
    yield (
        f"seen: {counted(seen.device_ops, 'op')} on {counted(seen.streams, 'stream')}{threads}, "
        f"{seen.collectives} of them collectives{host}"
    )
    ways = Counter[str]()
    for one in seen.unseen:
        ways[one.what] += one.count
    missed = [f"what {name} (native code) does to tensors" for name in seen.native]
    for what, count in ways.items():
        places = [str(one.place) for one in seen.unseen if one.what == what and one.place][:2]
        missed.append(f"what is done through {count} {what} ({', '.join(places) or 'no Python frame'})")
    yield f"not seen: {'; '.join(missed)}" if missed else "not seen: nothing that this run shows"


def _held_text(held: Held) -> Iterator[str]:
    accesses, storages = counted(held.accesses_peak, "access"), counted(held.storages_peak, "storage")
    yield (
        f"the analysis held at most {accesses} to {storages} and {counted(held.events_peak, 'event')} a rank"
    )
    if held.accesses_forgotten:
        were = "access was" if held.accesses_forgotten == 1 else "accesses were"
        yield f"{held.accesses_forgotten} {were} forgotten for want of room: a race with them would be missed"


_WORDS = {
    "race": ("unordered pair", " of lines"),
    "freed-in-use": ("block", " freed while in use"),
    "unwritten-read": ("read", " of unwritten memory"),
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
    yield from _access_text(race.first, full)
    if race.kind == "unwritten-read" and race.second != race.first:
        yield "  and what was read is used by"
    if race.second != race.first:
        yield from _access_text(race.second, full)
    if race.takeover:
        yield "  and its block may go to"
        yield from _access_text(race.takeover, full)
    if race.effect:
        yield f"  {effect_text(race.effect)}"
        yield from (f"    {line}" for line in race.effect.story)
    elif searched:
        swapped = race.kind != "unwritten-read"
        reason = "the budget of races was spent" if swapped else "only unordered pairs can be swapped"
        yield f"  effect: not searched ({reason})"


def _access_text(access: Access, full: bool) -> Iterator[str]:
    what = access.access if access.access == "FREE" else f"{access.access} {access.op}"
    yield f"  {what} on {access.stream}, bytes {access.low}–{access.high - 1}"
    for place in access.site if full else access.site[:2]:
        yield f"      {place}"
        if place.code:
            yield f"          {place.code}"


def effect_text(effect: Effect) -> str:
    replay = f"; replay: hpz race --replay {effect.replay}" if effect.replay else ""
    if not effect.found and effect.also:
        return (
            f"effect: none found of these accesses alone in {effect.schedules} schedules; "
            f"{' and '.join(_also_text(effect))}{replay}"
        )
    if not effect.found and not effect.compared:
        return f"effect: no failure in {effect.schedules} schedules; values were not compared (see above)"
    if not effect.found:
        return f"effect: none found in the budget ({effect.schedules} schedules)"
    return f"effect: {effect.changed} under {effect.schedule}{replay}"


def _also_text(effect: Effect) -> Iterator[str]:
    """What becomes of the program under which policies; the first is described where that says more."""
    values = [name for name in effect.also if name not in effect.failing]
    for names, what in ((effect.failing, "the program fails"), (values, "the program's values change")):
        if names:
            described = names is effect.failing and names[0] == effect.also[0] and effect.changed
            yield f"{described or what} under {_policies(names)}"


def _policies(names: Sequence[str]) -> str:
    """`policy main-first`; of a class of schedules, its name says so itself."""
    if names[0].startswith("class "):
        return ", ".join(names)
    return f"{'policies' if len(names) > 1 else 'policy'} {', '.join(names)}"


def ranks_text(ranks: Sequence[int]) -> str:
    """`rank 2`, `ranks 0–3` or `ranks 0, 2`."""
    if len(ranks) == 1:
        return f"rank {ranks[0]}"
    if list(ranks) == list(range(ranks[0], ranks[-1] + 1)):
        return f"ranks {ranks[0]}–{ranks[-1]}"
    return f"ranks {', '.join(map(str, ranks))}"
