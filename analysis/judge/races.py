"""What was analysed in single runs (their races.json), and the source lines at which their hosts waited."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from analysis.judge.pairs import Matched, Recorded

Record = Mapping[str, Any]


@dataclass(frozen=True)
class Wait:
    """How often one run's host waited at one source line, on rank 0."""

    release: str
    variant: str
    policy: str
    place: str
    reason: str
    count: int
    run_id: str


def waits(matched: Matched) -> list[Wait]:
    """Host waits by source line, the most frequent first."""
    found = [
        Wait(
            recorded.run.release,
            recorded.run.variant,
            recorded.run.policy,
            place_text(cost["place"]),
            cost["reason"],
            cost["count"],
            recorded.run_id,
        )
        for recorded, report in reports(matched)
        for cost in report["costs"]
        if cost["kind"] == "host-wait"
    ]
    return sorted(found, key=lambda wait: (wait.variant, wait.policy, -wait.count))


def reports(matched: Matched) -> Iterator[tuple[Recorded, Record]]:
    for recorded in matched.of.values():
        if text := recorded.row["races"]:
            yield recorded, json.loads(text)


def place_text(place: Record | None) -> str:
    return f"{place['file']}:{place['line']} {place['function']}".rstrip() if place else "(no Python frame)"
