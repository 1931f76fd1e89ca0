"""The tables of a simulated study, which answer its questions, and their files.

All numbers carry `evidence: simulated-time`. Seconds are those of one optimizer step in steady state. Columns that end
in `_low` and `_high` are the ends of the range over the corners (harness.simulate.corners) and the cluster as stated.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from harness.simulate.records import EVIDENCE, SAME_CLUSTER, SAME_TRAINING, Simulated
from harness.simulate.timeline import LIMITED_BY
from harness.system.whole_file import write_text_whole


def with_range(
    make: Callable[[Simulated], pd.DataFrame], simulated: Simulated, columns: Sequence[str]
) -> pd.DataFrame:
    """A table, and of these columns the least and the largest value over all corners.

    Ratios are formed at each corner, between cells of the same cluster.
    """
    table = make(simulated)
    every = [table, *(make(simulated.at(name)) for name in simulated.corners["corner"].unique())]
    for column in columns:
        values = np.stack([each[column].to_numpy(float) for each in every])
        nothing = np.isnan(values).all(axis=0)
        ends = np.where(nothing, 0.0, values)
        for name, end in (("low", np.nanmin(ends, axis=0)), ("high", np.nanmax(ends, axis=0))):
            table[f"{column}_{name}"] = np.where(nothing, np.nan, end)
    return table


def sync_cost(simulated: Simulated) -> pd.DataFrame:
    """Each ordering against the unordered one and ZeRO-3 on the same cluster, with ranges. See `_sync_cost`."""
    columns = ("step_seconds", "speedup_over_zero3", "speed_kept", "cost_of_order")
    return with_range(_sync_cost, simulated, columns)


def _sync_cost(simulated: Simulated) -> pd.DataFrame:
    """Adds: `cost_of_order` (step time over unordered − 1), `speedup_over_zero3`, `speed_kept` (of unordered, the

    second reading of "98 %"), `lost_overlap_seconds` (communication exposed beyond that of unordered).
    """
    table = simulated.table("sync_cost")
    keys = [*SAME_TRAINING, *SAME_CLUSTER]
    for column, variant in (("zero3", "zero3"), ("unordered", "unordered")):
        reference = table[table["variant"] == variant].drop_duplicates(keys).set_index(keys)
        found = reference.reindex(pd.MultiIndex.from_frame(table[keys]))
        table[f"{column}_step_seconds"] = found["step_seconds"].to_numpy()
        table[f"{column}_exposed_seconds"] = found["exposed_seconds"].to_numpy()
        table[f"{column}_nic_bytes"] = found["node_nic_bytes"].to_numpy()
        table[f"{column}_run_id"] = found["run_id"].to_numpy()
    table["speedup_over_zero3"] = table["zero3_step_seconds"] / table["step_seconds"]
    table["speed_kept"] = table["unordered_step_seconds"] / table["step_seconds"]
    table["cost_of_order"] = table["step_seconds"] / table["unordered_step_seconds"] - 1
    table["lost_overlap_seconds"] = table["exposed_seconds"] - table["unordered_exposed_seconds"]
    table["bytes_bound"] = table["zero3_nic_bytes"] / table["node_nic_bytes"]
    without = table["variant"].str.startswith("zero3")  # orders nothing, so that it has no cost of order
    table.loc[without, ["cost_of_order", "speed_kept", "lost_overlap_seconds"]] = np.nan
    return table


def scaling(simulated: Simulated) -> pd.DataFrame:
    """World sizes with ranges. See `_scaling`."""
    return with_range(_scaling, simulated, ("step_seconds", "efficiency"))


def _scaling(simulated: Simulated) -> pd.DataFrame:
    """Adds `efficiency` (tokens/s a GPU against the smallest world of the same line) and `limited_by`."""
    table = simulated.table("scaling")
    line = ["model", "variant", *SAME_CLUSTER, "micro_batch"]
    each = table["tokens_per_second"] / table["gpus"]
    smallest = table.loc[table.groupby(line)["gpus"].idxmin(), [*line]].assign(
        reference=each.loc[table.groupby(line)["gpus"].idxmin()]
    )
    table["efficiency"] = each / table.merge(smallest, on=line, how="left")["reference"].to_numpy()
    limits = table[[f"limit_{name}" for name in LIMITED_BY]]
    table["limited_by"] = [str(name).removeprefix("limit_") for name in limits.idxmax(axis=1)]
    return table


def windows(simulated: Simulated) -> pd.DataFrame:
    """One row a cell: can the gather overtake the copy?

    `verdict` is `strikes` (at every corner), `may strike` (at some), `close` (at none, but under 100 µs at one) or
    `hidden`.
    """
    table = with_range(lambda each: each.table("windows"), simulated, ("margin_min_us", "overtaken"))

    def verdict(row: Any) -> str:
        if row["parameters_gathered"] == 0:
            return "nothing gathered"
        if row["overtaken_high"]:
            return "strikes" if row["overtaken_low"] else "may strike"
        return "close" if row["margin_min_us_low"] < 100 else "hidden"

    table["verdict"] = [verdict(row) for _, row in table.iterrows()]
    return table


def hpz_sizes(simulated: Simulated) -> pd.DataFrame:
    """Sizes of the secondary group with ranges. See `_hpz_sizes`."""
    return with_range(_hpz_sizes, simulated, ("step_seconds", "speedup_over_zero3"))


def _hpz_sizes(simulated: Simulated) -> pd.DataFrame:
    """Each size of the secondary group against ZeRO-3 on the same cluster."""
    table = simulated.table("hpz_sizes")
    keys = [*SAME_TRAINING, *SAME_CLUSTER]
    reference = table[table["variant"] == "zero3"].drop_duplicates(keys).set_index(keys)["step_seconds"]
    found = reference.reindex(pd.MultiIndex.from_frame(table[keys]))
    table["speedup_over_zero3"] = found.to_numpy() / table["step_seconds"]
    return table


READINGS = {
    "R1": "hpZ with the fix trains 98 % faster than ZeRO-3 (1.98 times its speed)",
    "R2": "hpZ with the fix keeps 98 % of the speed of hpZ without any order",
}
CLAIMED = {"R1": 1.98, "R2": 0.98}


def ninety_eight(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Both readings of the paper's "98 %", per model and network, from the table of `sync_cost`.

    Each is `reached` or `not reached` by the simulated fix over its whole range, `left open` by it, or `impossible by
    bytes` alone (R1). A reading whose reference was not simulated is left out.
    """
    readings = []
    for row in table[table["variant"] == "fixed"].to_dict("records"):
        about = {key: row[key] for key in (*SAME_TRAINING, *SAME_CLUSTER, "evidence")}
        for reading, reference, column, bound in (
            ("R1", "zero3", "speedup_over_zero3", row["bytes_bound"]),
            ("R2", "unordered", "speed_kept", None),
        ):
            if pd.notna(row[column]):
                low, high = row[f"{column}_low"], row[f"{column}_high"]
                found = {"claimed": CLAIMED[reading], "simulated": row[column], "low": low, "high": high}
                found |= {"bytes_bound": bound, "judgement": _judged(low, high, CLAIMED[reading], bound)}
                run_ids = [row["run_id"], row[f"{reference}_run_id"]]
                readings.append({**about, "reading": reading, "run_ids": run_ids, **found})
    return readings


def _judged(low: float, high: float, claimed: float, bound: float | None) -> str:
    if bound is not None and bound < claimed:
        return "impossible by bytes"
    if low < claimed <= high:
        return "left open"
    return "reached" if low >= claimed else "not reached"


def write(simulated: Simulated, folder: Path) -> dict[str, Path]:
    """Write every table as csv, and all of them as simulated.json, into `folder`; returns the files by name."""
    folder.mkdir(parents=True, exist_ok=True)
    tables = {"cells": simulated.cells, "margins": simulated.margins, "corners": simulated.corners}
    makers = {"sync_cost": sync_cost, "windows": windows, "scaling": scaling, "hpz_sizes": hpz_sizes}
    present = set(simulated.cells["table"])
    tables |= {name: make(simulated) for name, make in makers.items() if name in present}
    content: dict[str, Any] = {"schema": 1, "study": simulated.study, "evidence": EVIDENCE}
    if "sync_cost" in present:
        content["claims"] = ninety_eight(tables["sync_cost"])
        content["readings"] = READINGS
        tables["claims"] = pd.DataFrame(content["claims"])
    files = {}
    for name, table in tables.items():
        files[name] = folder / f"{name}.csv"
        write_text_whole(files[name], table.to_csv(index=False))
        if name not in ("margins", "claims", "corners"):
            content[name] = json.loads(table.to_json(orient="records"))
    files["json"] = folder / "simulated.json"
    write_text_whole(files["json"], json.dumps(content, indent=1, allow_nan=False) + "\n")
    return files


def read(folder: Path, study: str) -> Simulated:
    """What `write` wrote. Raises OSError where it is not there; results without corners have no ranges."""
    found = Simulated(study, pd.read_csv(folder / "cells.csv"), pd.read_csv(folder / "margins.csv"))
    if not (folder / "corners.csv").is_file():
        return found
    return replace(found, corners=pd.read_csv(folder / "corners.csv"))
