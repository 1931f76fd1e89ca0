"""wandb's offline stores as wandb's own reader (`wandb leet inspect`) shows them."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

Record = dict[str, Any]


def stores(folder: Path) -> list[Path]:
    """The stores of a run, or of a study's summary."""
    return sorted(folder.glob("wandb/offline-run-*/*.wandb"))


def stored(folder: Path) -> list[Record]:
    """Every record of all stores, once each store has its exit record: wandb writes on for a moment after `finish`."""
    return [record for store in stores(folder) for record in _whole(store)]


def of(kind: str, records: list[Record]) -> list[Record]:
    return [record[kind] for record in records if record["type"] == kind]


def history(records: list[Record]) -> list[dict[str, Any]]:
    """What was logged, in order, as often as it was."""
    return [{key: _number(value) for key, value in one["item"].items()} for one in of("history", records)]


def steps_stored(folder: Path) -> list[int]:
    """The steps of all stores, in order, as often as they were told."""
    return [int(row["step"]) for row in history(stored(folder)) if "step" in row]


def summary(records: list[Record]) -> dict[str, Any]:
    """The last word of each key of the summary."""
    found: dict[str, Any] = {}
    for one in of("summary", records):
        found |= one["update"]
    return found


def _whole(store: Path) -> list[Record]:
    deadline = time.monotonic() + 120
    while True:
        command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(store)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
        records = [json.loads(line) for line in done.stdout.splitlines()]
        if records and records[-1]["type"] == "exit":
            return records
        assert time.monotonic() < deadline, f"{store} has no exit record; {done.stderr}"
        time.sleep(0.05)


def _number(value: Any) -> Any:
    return float(value) if value in ("NaN", "Infinity", "-Infinity") else value
