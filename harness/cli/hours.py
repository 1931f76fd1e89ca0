"""Hours of a study for the terminal: planned, used and lost, by variant and in all."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from harness.record.hours import Hours

SPENT = ("runs", "planned", "used", "lost to restarts", "lost to failed runs")


def known(hours: Sequence[Hours]) -> bool:
    """Whether there is anything to show."""
    return any(row.used or row.planned is not None for row in hours)


def hours_table(hours: Sequence[Hours]) -> Table:
    """One line a variant, and one with all; what was spent has its columns once there is any."""
    table = Table(title=" and ".join(dict.fromkeys(row.unit for row in hours)), box=None)
    columns = SPENT if any(row.used for row in hours) else SPENT[:2]
    table.add_column("variant")
    for column in columns:
        table.add_column(column, justify="right")
    for row in hours:
        numbers = (str(row.runs), *map(hours_text, (row.planned, row.used, row.restarts, row.failed)))
        table.add_row(row.variant or "all", *numbers[: len(columns)])
    return table


def hours_text(value: float | None) -> str:
    return "–" if value is None else f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
