"""What a study's simulated time found: what an order costs, where the race strikes, and how it scales.

It comes from the `simulated/` folder that `hpz simulate` writes; a study without one shows nothing of this.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.judge.trust import records
from harness.simulate.plan import Settings
from harness.simulate.records import SAME_CLUSTER, SAME_TRAINING, Simulated
from harness.simulate.tables import (
    CLAIMED,
    READINGS,
    hpz_sizes,
    ninety_eight,
    read,
    scaling,
    sync_cost,
    windows,
)
from harness.simulate.validate import Validation, read_validation

Record = dict[str, Any]
FOLDER = "simulated"

ORDERED = ("event", "fixed", "device-sync")

TOYS = "toy"  # in the names of models that are not full size


@dataclass(frozen=True, eq=False)
class Clock:
    """A study's simulated time and what it was held against; `folder` is its `simulated/`."""

    folder: Path
    simulated: Simulated
    validation: Validation | None

    @property
    def tables(self) -> set[str]:
        return set(self.simulated.cells["table"])


def load_clock(folder: Path, study: str) -> Clock | None:
    """The simulated time of a results folder; None where there is none."""
    place = folder / FOLDER
    if not (place / "cells.csv").is_file():
        return None
    return Clock(place, read(place, study), read_validation(place))


def case(row: Mapping[Any, Any]) -> str:
    """A training setting and how many GPUs have it, in few words; the host where it is not the usual one."""
    gpus = row["nodes"] * row["ranks_per_node"]
    words = f"{row['model']}, {gpus:,} GPUs, batch {row['micro_batch']} × {row['sequence_length']}"
    more = row["gradient_accumulation"]
    words += f", {more} micro-batches" if more > 1 else ""
    return words + (f", {row['host']}" if row["host"] != Settings().host else "")


def order_rows(clock: Clock) -> list[Record]:
    """One row a setting and network: seconds of ZeRO-3 and unordered hpZ, and what each ordering adds to it."""
    if "sync_cost" not in clock.tables:
        return []
    keys = [*SAME_TRAINING, *SAME_CLUSTER]
    found = []
    for _, part in sync_cost(clock.simulated).groupby(keys, sort=False):
        by = {row["variant"]: row for row in part.to_dict("records")}
        first, seconds = next(iter(by.values())), {name: row["step_seconds"] for name, row in by.items()}
        fixed, device = by.get("fixed", {}), by.get("device-sync", {})
        found.append(
            {
                "case": case(first),
                "network": first["network"],
                "zero3": seconds.get("zero3"),
                "unordered": seconds.get("unordered"),
                **{name: by[name]["cost_of_order"] if name in by else None for name in ORDERED},
                **{f"{name}_{end}": _end(by, name, end) for name in ORDERED for end in ("low", "high")},
                "speedup": fixed.get("speedup_over_zero3"),
                "speedup_low": fixed.get("speedup_over_zero3_low"),
                "speedup_high": fixed.get("speedup_over_zero3_high"),
                "bytes_bound": fixed.get("bytes_bound"),
                "blocked": fixed.get("blocked_at_copy_seconds"),
                "lost": device.get("lost_overlap_seconds"),
                "run_ids": [row["run_id"] for row in by.values()],
            }
        )
    return found


def _end(by: Mapping[str, Any], name: str, end: str) -> float | None:
    return by[name][f"cost_of_order_{end}"] if name in by else None


def order_costs(clock: Clock) -> dict[str, tuple[float, float]]:
    """Ordering → (least, largest) share that it adds to a step of unordered hpZ, over settings and their ranges."""
    if "sync_cost" not in clock.tables:
        return {}
    table = sync_cost(clock.simulated).dropna(subset=["cost_of_order"])
    return {
        name: (float(part["cost_of_order_low"].min()), float(part["cost_of_order_high"].max()))
        for name in ORDERED
        if len(part := table[table["variant"] == name])
    }


def window_counts(clock: Clock) -> Record | None:
    """How many settings (training × network) there are, and in how many the race strikes, may strike, or is hidden."""
    if "windows" not in clock.tables:
        return None
    table = windows(clock.simulated)
    table = table[table["parameters_gathered"] > 0]
    full = table[~table["model"].str.contains(TOYS)]
    small = table[table["model"].str.contains(TOYS)]
    return {
        "settings": len(full),
        **{name: int((full["verdict"] == name).sum()) for name in ("strikes", "close", "hidden")},
        "may_strike": int((full["verdict"] == "may strike").sum()),
        "by_code": _strikes(full.assign(code=full["variant"] + " of DeepSpeed " + full["release"]), "code"),
        "by_network": _strikes(full, "network"),
        "small_settings": len(small),
        "small_strikes": int(small["verdict"].isin(["strikes", "may strike"]).sum()),
        "run_ids": list(dict.fromkeys(table["run_id"])),
    }


def _strikes(table: pd.DataFrame, column: str) -> dict[str, list[int]]:
    """Value of the column → [settings in which the race strikes over the whole range, in which it may, settings]."""
    return {
        str(name): [*(int((part["verdict"] == what).sum()) for what in ("strikes", "may strike")), len(part)]
        for name, part in table.groupby(column, sort=False)
    }


def reading_rows(clock: Clock) -> list[Record]:
    """Both readings of "98 %", each with its range over all settings and their own ranges, and the best and worst."""
    if "sync_cost" not in clock.tables:
        return []
    every = pd.DataFrame(ninety_eight(sync_cost(clock.simulated)))
    return [_reading(str(name), part) for name, part in every.groupby("reading")] if len(every) else []


def _reading(name: str, part: pd.DataFrame) -> Record:
    rows = part.to_dict("records")
    worst, best = min(rows, key=lambda row: row["low"]), max(rows, key=lambda row: row["high"])
    return {
        "reading": name,
        "says": READINGS[name],
        "claimed": CLAIMED[name],
        "low": float(worst["low"]),
        "high": float(best["high"]),
        "least_at": f"{case(worst)}, {worst['network']}",
        "most_at": f"{case(best)}, {best['network']}",
        "bytes_allow": None if name != "R1" else float(part["bytes_bound"].max()),
        "settings": len(part),
        "reached": int((part["judgement"] == "reached").sum()),
        "left_open": int((part["judgement"] == "left open").sum()),
        "impossible": int((part["judgement"] == "impossible by bytes").sum()),
        "run_ids": list(dict.fromkeys(run_id for ids in part["run_ids"] for run_id in ids)),
    }


def size_rows(clock: Clock) -> list[Record]:
    """Secondary groups of each size against ZeRO-3, by network."""
    if "hpz_sizes" not in clock.tables:
        return []
    rows = records(hpz_sizes(clock.simulated))
    return [row | {"case": case(row)} for row in rows if row["hpz"] > 1]


def scaling_rows(clock: Clock) -> list[Record]:
    """Every world size: step time, bytes of a step, efficiency, and what limits."""
    if "scaling" not in clock.tables:
        return []
    return [row | {"case": case(row)} for row in records(scaling(clock.simulated))]
