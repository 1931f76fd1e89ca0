"""The files of a run directory become one row of the runs table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from analysis.collect.sources import Problem
from analysis.collect.tables import RUN_COLUMNS


def run_row(path: Path, problems: list[Problem]) -> dict[str, Any] | None:
    """One row of the runs table; None (and a problem) where run.json cannot be read."""
    name = f"runs/{path.name}/run.json"
    try:
        record = json.loads((path / "run.json").read_text())
        run = record["run"]
        shape, training = run["shape"], run["training"]
        status = _read_json(path / "status.json")
        final = status.get("final") or {}
        row: dict[str, Any] = dict.fromkeys(RUN_COLUMNS)
        row |= {key: run[key] for key in ("study", "model", "variant", "release", "seed", "device")}
        row |= {key: run[key] for key in ("policy", "poison")} | dict(shape)
        row |= {
            "run_id": path.name,
            "evidence": record["evidence"],
            "steps_planned": training["steps"],
            "gradient_accumulation": training["gradient_accumulation"],
            "activation_checkpointing": training["activation_checkpointing"],
            "state": status.get("state", "pending"),
            **{key: status.get(key) for key in ("reason", "attempts", "started_utc", "ended_utc")},
            **{
                key: final.get(key)
                for key in ("skipped_steps", "accuracy", "shards_sha256", "batches_sha256")
            },
            "record": json.dumps(record, sort_keys=True),
            "status": json.dumps(status, sort_keys=True),
            "races": races.read_text() if (races := path / "races.json").is_file() else None,
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        problems.append(Problem(name, None, f"not a run record ({error!r}); the run is left out"))
        return None
    return row


def _read_json(file: Path) -> dict[str, Any]:
    """A JSON object; empty where the file is missing or half-written."""
    try:
        content = json.loads(file.read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
