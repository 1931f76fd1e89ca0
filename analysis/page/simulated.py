"""What the page's section on simulated time shows, beside its figures."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from analysis.judge.clock import clock_record
from analysis.judge.clock_tables import FOLDER, Clock, order_rows, scaling_rows, size_rows
from analysis.judge.trust import group_rows, records, validation_rows

Record = dict[str, Any]
STEP = "step.json.gz"

LARGEST_INLINE = 300_000  # bytes of a step that the page carries itself


@dataclass(frozen=True)
class Section:
    """What the page's section shows, beside its figures."""

    record: Record
    table: list[Record]  # every published measurement
    groups: list[Record]  # their errors by card, network and framework
    published: list[Record]
    measured: list[Record]
    orders: list[Record]  # on the study's first network
    all_orders: list[Record]
    scaling: list[Record]
    sizes: list[Record]
    step: str | None  # a recorded step for Perfetto, as an address
    files: list[str]


def section(clock: Clock | None) -> Section | None:
    """None where there is nothing to show."""
    record = clock_record(clock)
    if clock is None or record is None:
        return None
    orders, held = order_rows(clock), clock.validation
    published, measured = validation_rows(clock.validation)
    return Section(
        record=record,
        table=records(held.table) if held else [],
        groups=group_rows(held.table) if held else [],
        published=published,
        measured=measured,
        orders=[row for row in orders if row["network"] == orders[0]["network"]],
        all_orders=orders,
        scaling=scaling_rows(clock),
        sizes=size_rows(clock),
        step=_step(clock.folder),
        files=sorted(file.name for file in clock.folder.glob("*.csv")),
    )


def _step(folder: Path) -> str | None:
    """Inside the page where it is small, else beside it."""
    file = folder / STEP
    if not file.is_file():
        return None
    if file.stat().st_size > LARGEST_INLINE:
        return f"{FOLDER}/{STEP}"
    return "data:application/gzip;base64," + base64.b64encode(file.read_bytes()).decode()
