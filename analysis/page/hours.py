"""Hours that a study took on SLURM, for the page and the text: planned, used and lost, by variant and in all."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from analysis.page.tables import number

Record = Mapping[str, Any]
NOTE = (
    "Hours of all ranks, from the start of each srun to its end; GPU-hours where each rank has a GPU of its own. "
    "Planned are those of all steps at the study's assumed MFU. Lost to restarts is what stopped and killed starts "
    "took beyond the steps that were kept: starting up, and steps that were made again. Lost to failed runs is all "
    "that runs took which did not finish. Both are part of what was used."
)


def spent_rows(summary: Record) -> list[dict[str, str]]:
    """A row a variant and one of all, by column; none where the study was not sent to SLURM."""
    return [
        {
            "variant": row["variant"] or "all",
            "runs": str(row["runs"]),
            "unit": row["unit"],
            "planned": number(row["planned"]),
            "used": number(row["used"]),
            "lost to restarts": number(row["restarts"]),
            "lost to failed runs": number(row["failed"]),
        }
        for row in summary.get("hours", ())
    ]
