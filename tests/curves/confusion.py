"""How triage judges the curves of the set: `python -m tests.curves.confusion` prints the tables of its page in docs."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from harness.diagnose.cases import Case, Known
from harness.diagnose.cases import case_of as foreign
from harness.diagnose.curve import curve_of, empty_curve
from harness.diagnose.triage import Triage, triage

FOLDER = Path(__file__).parent
FILES = ("healthy.jsonl", "faulty.jsonl")
PARTS = ("tuned", "second", "third", "held out")
"""Rules were made on the first, and mended for kinds after a look at the next two; none was changed for the last."""
ALARMS = ("fault", "broken")


@dataclass(frozen=True)
class Judged:
    """A curve of the set and its answer."""

    name: str
    part: str
    kind: str
    right: tuple[str, ...]
    answer: Triage

    @property
    def called(self) -> str:
        """What the answer says it is, as a word of the table."""
        verdict = self.answer.verdict
        return self.answer.fault if verdict in ("fault", "at risk") else verdict

    @property
    def false_alarm(self) -> bool:
        return self.kind == "healthy" and self.answer.verdict in ALARMS

    @property
    def right_first(self) -> bool:
        return self.called in self.right

    @property
    def missed(self) -> bool:
        """A wrong `nothing to do`: a fault, and no word of it."""
        return self.kind != "healthy" and self.answer.verdict == "healthy"


def case_of(record: dict[str, Any]) -> Case:
    """The case of one line of the set, as a user would give it: rows, and what is known of the run."""
    columns = record["columns"]
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    rows += record["evaluations"]
    curve = curve_of(rows, record["name"]) if rows else empty_curve()
    told = dict(record["known"])
    facts = frozenset(told.pop("facts", ()))
    if "numels" in told:
        told["numels"] = tuple(told["numels"])
    known = Known(**told, facts=facts)
    case = foreign(curve, known.setup(), record["name"], known.vocabulary)
    return replace(case, silence=record.get("silence"))


def records() -> Iterator[dict[str, Any]]:
    for file in FILES:
        yield from map(json.loads, (FOLDER / file).read_text().splitlines())


@lru_cache(maxsize=1)
def judged() -> tuple[Judged, ...]:
    return tuple(
        Judged(one["name"], one["part"], one["kind"], tuple(one.get("right", ())), triage(case_of(one)))
        for one in records()
    )


def figures(found: Iterable[Judged]) -> dict[str, tuple[int, int]]:
    """Count and whole of: false alarms, right kind first, wrong `nothing to do`."""
    all_of = list(found)
    healthy = [one for one in all_of if one.kind == "healthy"]
    faulty = [one for one in all_of if one.kind != "healthy"]
    return {
        "false alarms": (sum(one.false_alarm for one in healthy), len(healthy)),
        "right kind first": (sum(one.right_first for one in faulty), len(faulty)),
        "wrong `nothing to do`": (sum(one.missed for one in faulty), len(faulty)),
    }


def tables() -> str:
    """The figures of both parts, and for each kind what its curves were called; Markdown."""
    found = judged()
    lines = ["| | tuned on | second | third | held out | all |", "|---|---|---|---|---|---|"]
    of_part = {part: figures(one for one in found if one.part == part) for part in PARTS} | {
        "all": figures(found)
    }
    for name in of_part["all"]:
        shares = [
            f"{count} of {whole} ({share(count, whole)})"
            for count, whole in (one[name] for one in of_part.values())
        ]
        lines.append(f"| {name} | {' | '.join(shares)} |")
    lines += ["", "| what it is | curves | what triage calls it first |", "|---|---|---|"]
    kinds = sorted({one.kind for one in found}, key=lambda kind: (kind != "healthy", kind))
    for kind in kinds:
        called = Counter(one.called for one in found if one.kind == kind)
        words = ", ".join(f"{name} {count}" for name, count in called.most_common())
        lines.append(f"| {kind} | {sum(called.values())} | {words} |")
    return "\n".join(lines) + "\n"


def share(count: int, whole: int) -> str:
    return f"{100 * count / whole:.1f} %"


if __name__ == "__main__":
    print(tables(), end="")
