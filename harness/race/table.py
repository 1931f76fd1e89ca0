"""The race matrix of a study as a table for a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.table import Table

from harness.race.matrix import Matrix, Row, grouped
from harness.variants import release_notes


def print_matrix(matrix: Matrix, console: Console) -> None:
    """One line for each release, variant and overlap, with how many of its settings show which fault."""
    table = Table(
        title=f"{matrix.study}: {len(matrix.rows)} runs, {matrix.analysed} of them analysed in these "
        f"{matrix.seconds:.0f} s (evidence: virtual-device)"
    )
    for column in (
        "release",
        "variant",
        "overlap",
        "runs",
        "unordered accesses found in",
        "host waits",
        "events",
        "stream waits",
    ):
        table.add_column(column, overflow="fold")
    for cells in table_rows(matrix.rows):
        table.add_row(*cells)
    console.print(table)
    for note in release_notes((row.release, row.variant) for row in matrix.rows):
        console.print(note, highlight=False, markup=False, soft_wrap=True)
    for fault in matrix.faults:
        effect = fault.effect
        none = "effect" if effect.compared else "failure"
        what = effect.changed if effect.found else f"no {none} found in {effect.schedules} schedules"
        replay = f"  hpz race --replay {effect.replay}" if effect.replay else ""
        console.print(
            f"{fault.name} in {fault.release}: {what}{replay}", highlight=False, markup=False, soft_wrap=True
        )
    for line in cost_lines(matrix):
        console.print(line, highlight=False, markup=False, soft_wrap=True)


SHOWN_LINES = 4  # places of one variant that the terminal shows; races.json and the page have all


def cost_lines(matrix: Matrix) -> Iterator[str]:
    """Where the host waits in the newest release with overlap on, a line for each variant."""
    newest = max((cost.release for cost in matrix.costs), default="")
    waits = [
        cost
        for cost in matrix.costs
        if cost.release == newest and cost.overlap_comm and cost.kind == "host-wait" and cost.per_step
    ]
    if waits:
        yield f"Host waits a step by source line, DeepSpeed {newest}, overlap on (all: races.json, hpz report):"
    for variant, costs in grouped(waits, lambda cost: cost.variant):
        places = [f"{cost.place} ({cost.reason}) {cost.per_step:g}" for cost in costs]
        more = f"; and {len(places) - SHOWN_LINES} more places" if len(places) > SHOWN_LINES else ""
        yield f"  {variant}: {'; '.join(places[:SHOWN_LINES])}{more}"


def table_rows(rows: Sequence[Row]) -> Iterator[tuple[str, ...]]:
    for key, group in grouped(rows, lambda row: (row.release, row.variant, row.overlap_comm)):
        release, variant, overlap = key
        names = sorted({name for row in group for name in row.faults})
        counts = [f"{name} {sum(name in row.faults for row in group)}/{len(group)}" for name in names]
        broken = sum(row.problem is not None for row in group)
        counts += [f"did not run {broken}/{len(group)}"] if broken else []
        costs = [
            sum(getattr(row, name) for row in group) / len(group)
            for name in ("host_waits", "event_records", "stream_waits")
        ]
        yield (
            release,
            variant,
            "on" if overlap else "off",
            str(len(group)),
            "; ".join(counts) or "none",
            *(f"{cost:.1f}" for cost in costs),
        )
