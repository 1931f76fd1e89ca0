"""The page's table of races that were analysed in a study's runs; a study without any shows nothing of this."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from analysis.judge.pairs import Matched
from analysis.judge.races import place_text, reports
from harness.race.report import LABELS

Record = Mapping[str, Any]

KINDS = {
    "race": "two accesses without order",
    "freed-in-use": "memory freed while in use",
    "unwritten-read": "read of memory that nothing wrote",
}


@dataclass
class RaceRow:
    """One missing order, over all runs in which it was found."""

    title: str
    kind: str
    first: str
    second: str
    names: dict[str, int]
    effect: str
    variants: list[str] = field(default_factory=list)
    run_ids: list[str] = field(default_factory=list)
    count: int = 0
    picture: str | None = None  # a data: address


def race_rows(matched: Matched, folder: Path) -> list[RaceRow]:
    """Distinct races, those of known faults first, each with a picture where one was drawn."""
    rows: dict[tuple[str, ...], RaceRow] = {}
    for recorded, report in reports(matched):
        for race in report["races"]:
            row = rows.setdefault(_key(race), _row(race))
            row.count += race["count"]
            row.variants += [recorded.run.variant] if recorded.run.variant not in row.variants else []
            row.run_ids.append(recorded.run_id)
            row.picture = row.picture or _picture(folder, recorded.run_id, race["id"])
    return sorted(rows.values(), key=lambda row: (row.title not in LABELS.values(), -row.count))


def _key(race: Record) -> tuple[str, ...]:
    return (race["kind"], race["label"] or "", _site(race["first"]), _site(race["second"]))


def _row(race: Record) -> RaceRow:
    label, kind = race["label"], str(race["kind"])
    effect = race["effect"]
    words = "not searched for" if effect is None else "values change" if effect["found"] else "none found"
    if effect and effect.get("schedule"):
        words += f": {effect['schedule']}"
    return RaceRow(
        title=LABELS.get(label, str(label)) if label else "not a known fault",
        kind=KINDS.get(kind, kind),
        first=f"{race['first']['access'].lower()} on {race['first']['stream']}, {_site(race['first'])}",
        second=f"{race['second']['access'].lower()} on {race['second']['stream']}, {_site(race['second'])}",
        names=dict(list(race["names"].items())[:3]),
        effect=words,
    )


def _site(access: Record) -> str:
    return place_text(access["site"][0]) if access["site"] else "(no Python frame)"


def _picture(folder: Path, run_id: str, race_id: str) -> str | None:
    """The picture as an image, in which no script of a foreign svg could run; None where none was drawn."""
    places = (folder / part / run_id / f"race-{race_id}.svg" for part in ("runs", "races"))
    file = next((place for place in places if place.is_file()), None)
    return "data:image/svg+xml;base64," + base64.b64encode(file.read_bytes()).decode() if file else None
