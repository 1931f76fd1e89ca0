"""What doctor and triage print: one line for everybody first, then why; 80 columns."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from typing import TYPE_CHECKING

from harness.diagnose.faults import Exposure, named, worst_first
from harness.words import counted, explained

if TYPE_CHECKING:
    from harness.diagnose.doctor import Examination
    from harness.diagnose.triage import Finding, Triage

WIDTH = 80
NOES = ("safe by release", "safe by setting", "not applicable")


def wrapped(text: str, first: str = "", indent: str = "") -> list[str]:
    """Lines of 80 columns, the first one after `first`."""
    return textwrap.wrap(
        text,
        WIDTH,
        initial_indent=first,
        subsequent_indent=indent or " " * len(first),
        break_on_hyphens=False,
    )


def doctor_lines(found: Examination) -> list[str]:
    """An examination as text; the first line says what matters most."""
    of = {answer: [one for one in found.exposures if one.exposed == answer] for answer in ANSWERS}
    lines = [found.headline, "", *wrapped(found.setup)]
    lines += [line for note in (*map(str, found.remarks), *found.notes) for line in wrapped(note, "Note: ")]
    unseen = [one for one in of["not examined"] if not named(one.fault).examined]
    for title, which in (("It applies", of["yes"]), ("Not examined by this project", unseen)):
        if which:
            lines += ["", f"{title}:"]
            lines += [line for one in worst_first(which) for line in _entry(one)]
    if len(unseen) < len(of["not examined"]):
        lines += ["", *wrapped(f"Not examined: {of['not examined'][-1].reason}.")]
    lines += _unknown(of["unknown"])
    if any(of[answer] for answer in NOES):
        lines += ["", "The others do not:"]
    for answer in NOES[:2]:
        if of[answer]:
            names = ", ".join(one.fault for one in of[answer])
            lines += wrapped(f"{answer}: {names}", "  ", "    ")
    if of["not applicable"]:
        lines.append(f"  not applicable: {len(of['not applicable'])} faults of other stages and settings")
    return [*lines, *_words(lines), "", "More about one: hpz doctor --explain FAULT"]


ANSWERS = ("yes", "unknown", "not examined", *NOES)


def _entry(one: Exposure) -> list[str]:
    return [
        *wrapped(f"{one.fault}: {one.plain} ({one.sure})", "  ", "    "),
        *wrapped(one.reason, "    why: "),
        *(wrapped(one.way_out, "    way out: ", "      ") if one.way_out else []),
        *wrapped(one.source, "    source: ", "      "),
    ]


def _unknown(found: list[Exposure]) -> list[str]:
    """What is not known: an entry each, and one for all that only a script says."""
    by_script = [one for one in found if one.of_script]
    others = [one for one in found if one not in by_script]
    lines = ["", "It may apply; an answer is missing:"] if found else []
    for one in worst_first(others):
        lines += wrapped(f"{one.fault}: {one.plain}", "  ", "    ")
        lines += wrapped(one.needs or one.reason, "    needs: " if one.needs else "    ")
        lines += wrapped(named(one.fault).sees, "    seen as: ")
        lines += wrapped(one.source, "    source: ", "      ")
    if by_script:
        names = "; ".join(f"{one.fault} ({one.plain}: {named(one.fault).first})" for one in by_script)
        lines += wrapped(f"only your script says whether: {names}", "  ", "    ")
    return lines


def triage_lines(found: Triage) -> list[str]:
    """A triage as text; the first line says what is wrong, how sure that is, and what to do first."""
    lines = [found.headline]
    if found.signs:
        lines += ["", "What is seen:"]
        lines += [line for seen in found.signs.values() for line in wrapped(seen, "  - ")]
    open_ones = [one for one in found.findings if one.ruled_out is None and one.points > 0]
    if found.verdict == "fault":
        lines += ["", "Why:", *_finding(open_ones[0])]
        lines += _also([one for one in open_ones[1:] if one.fault in found.possible], "Also possible:")
    elif found.verdict == "broken":
        lines += _also(open_ones[:5], "What it may be, the likeliest first:")
    against = [one for one in found.findings if one.exposed in NOES[:2] and one.points > 0]
    if found.verdict in ("fault", "broken") and against:
        lines += ["", "Not these, though the curve would fit:"]
        lines += [line for one in against[:5] for line in wrapped(f"{one.fault}: {one.ruled_out}", "  - ")]
    lines += ["", "What to do:"]
    lines += [line for step in found.next for line in wrapped(step, "  - ")]
    if found.notes:
        lines += [""]
    lines += [line for note in found.notes for line in wrapped(note, "Note: ")]
    return lines + _words(lines)


def _finding(one: Finding) -> list[str]:
    fault = named(one.fault)
    lines = wrapped(f"{fault.id}: {fault.plain} ({fault.sure}; {counted(one.points, 'point')})", "  - ")
    for evidence in one.evidence:
        lines += wrapped(f"{evidence.points:+d}  {evidence.seen}", "      ", "          ")
    return lines


def _also(found: list[Finding], title: str) -> list[str]:
    lines = ["", title] if found else []
    for one in found:
        fault = named(one.fault)
        lines += wrapped(
            f"{fault.id}: {fault.plain} ({counted(one.points, 'point')}); first: {fault.first}", "  - "
        )
    return lines


def _words(lines: list[str]) -> list[str]:
    """What the terms in these lines mean, one line or two each."""
    terms = explained(" ".join(" ".join(lines).split()))
    entries = [line for term, plain in terms.items() for line in wrapped(f"{term}: {plain}", "  ", "    ")]
    return ["", "Words (more: hpz explain WORD):", *entries] if terms else []


def text(lines: Iterable[str]) -> str:
    return "\n".join(lines)
