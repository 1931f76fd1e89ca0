"""What `hpz race STUDY` found in every run of a study, for the page, summary.json and text.

It comes from the study's races.json; a study that was not analysed shows nothing of this.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import ValidationError

from harness.race.matrix import Matrix
from harness.race.table import table_rows
from harness.system.errors import HarnessError

Record = dict[str, Any]
COLUMNS = (
    "release",
    "variant",
    "overlap_comm",
    "runs",
    "found",
    "host_waits",
    "event_records",
    "stream_waits",
)


def load_matrix(folder: Path) -> Matrix | None:
    """The matrix of a results folder; None where there is none. Raises HarnessError for a file that is none."""
    file = folder / "races.json"
    if not file.exists():
        return None
    try:
        return Matrix.model_validate_json(file.read_text())
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise HarnessError(
            f"{file}: {where}: {first['msg']}; delete it and run hpz race on the study again"
        ) from error


def matrix_record(matrix: Matrix | None) -> Record | None:
    """The `races` of summary.json; None where the study was not analysed."""
    if matrix is None:
        return None
    return {
        "evidence": "virtual-device",
        "runs": len(matrix.rows),
        "racing": _variants(matrix, racing=True),
        "clean": _variants(matrix, racing=False),
        "rows": [dict(zip(COLUMNS, cells, strict=True)) for cells in table_rows(matrix.rows)],
        "faults": [
            {
                "name": fault.name,
                "release": fault.release,
                "run_id": fault.run_id,
                "found": fault.effect.found,
                "changed": fault.effect.changed,
                "schedules": fault.effect.schedules,
                "replay": fault.effect.replay,
            }
            for fault in matrix.faults
        ],
    }


def _variants(matrix: Matrix, *, racing: bool) -> list[str]:
    """Variants with the race of hpZ's secondary copy in some run, or those analysed that have it in none."""
    ran = [row for row in matrix.rows if row.problem is None and not row.variant.startswith("zero3")]
    found = {row.variant for row in ran if "hpz-secondary-copy" in row.labels}
    return [name for name in dict.fromkeys(row.variant for row in ran) if (name in found) is racing]


def race_sentence(record: Record) -> str:
    """What the analysis says of hpZ's race, in one sentence."""
    parts = [f"{record['runs']} runs were analysed for missing order"]
    parts += [f"hpZ's race is open in {', '.join(record['racing'])}"] if record["racing"] else []
    parts += [f"closed in {', '.join(record['clean'])}"] if record["clean"] else []
    return "; ".join(parts) + "."


def fault_sentence(fault: Record) -> str:
    """What one fault can do in one release, and how to see it again."""
    if not fault["found"]:
        return f"{fault['name']} in DeepSpeed {fault['release']}: no effect found in {fault['schedules']} schedules"
    again = f"; hpz race --replay {fault['replay']}" if fault["replay"] else ""
    return f"{fault['name']} in DeepSpeed {fault['release']}: {fault['changed']}{again}"
