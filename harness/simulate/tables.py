"""A study in simulated time: every cell's timeline as one flat record, and the tables that answer the questions.

All numbers carry `evidence: simulated-time`. Seconds are those of one optimizer step in steady state.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from harness.simulate.plan import Cell, cells, settings_of
from harness.simulate.timeline import LIMITED_BY, Timeline, simulate
from harness.simulate.trace import Kind, Trace, load
from harness.simulate.traces import trace_file, traces
from harness.study.study import Study
from harness.system.whole_file import write_text_whole

EVIDENCE = "simulated-time"
COPY = "_partition_param_sec"  # where the fix makes the host wait
SAME_TRAINING = (
    *("model", "nodes", "ranks_per_node", "micro_batch", "sequence_length", "gradient_accumulation"),
    *("activation_checkpointing", "prefetch_bucket", "max_live_parameters", "release"),
)
SAME_CLUSTER = ("gpu", "network", "host")
MARGIN_COLUMNS = ("run_id", *SAME_TRAINING, *SAME_CLUSTER, "evidence", "parameter", "margin_us")
Progress = Callable[[str, int, int], None]  # what, done, of


@dataclass(frozen=True, eq=False)
class Simulated:
    """What `simulate_study` computed."""

    study: str
    cells: pd.DataFrame  # one row a cell
    margins: pd.DataFrame  # one row a cell of `windows` and parameter

    def table(self, name: str) -> pd.DataFrame:
        """The cells of one table. Columns: see `cell_record`."""
        return self.cells[self.cells["table"] == name].reset_index(drop=True)


def simulate_study(study: Study, progress: Progress = lambda what, done, of: None) -> Simulated:
    """Trace what is not in the cache, then run every timeline. Raises HarnessError and RunFailed."""
    planned, lanes = cells(study), settings_of(study).lanes
    files = _traced(planned, lanes, progress)
    records: list[dict[str, Any]] = []
    margins: list[dict[str, Any]] = []
    work = _by_trace(planned, files)
    with ProcessPoolExecutor(max_workers=lanes, mp_context=get_context("spawn")) as pool:
        for number, (own, parts) in enumerate(pool.map(_timelines, work), start=1):
            records += own
            margins += parts
            progress("timelines", number, len(work))
    order = {cell.key: place for place, cell in enumerate(planned)}
    records.sort(key=lambda r: order[r["table"], r["run_id"], r["gpu"], r["network"], r["host"]])
    return Simulated(study.name, pd.DataFrame(records), pd.DataFrame(margins, columns=MARGIN_COLUMNS))


def _traced(planned: Sequence[Cell], lanes: int, progress: Progress) -> dict[str, Path]:
    runs = {cell.run.run_id: cell.run for cell in planned}
    missing = {trace_file(run) for run in runs.values() if not trace_file(run).exists()}
    done = [0]

    def count(_: str) -> None:
        done[0] += 1
        progress("traces taken", done[0], len(missing))

    return traces(runs.values(), lanes=lanes, progress=count)


def _by_trace(planned: Iterable[Cell], files: dict[str, Path]) -> list[tuple[Path, list[Cell]]]:
    groups: dict[Path, list[Cell]] = {}
    for cell in planned:
        groups.setdefault(files[cell.run.run_id], []).append(cell)
    return list(groups.items())


def _timelines(work: tuple[Path, list[Cell]]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """All cells of one trace, in a process of its own."""
    file, group = work
    trace = load(file)
    records, margins = [], []
    for cell in group:
        timeline = simulate(trace, cell.cluster)
        record = cell_record(cell, timeline)
        records.append(record)
        if cell.table == "windows":
            margins += margin_records(record, timeline)
    return records, margins


def cell_record(cell: Cell, timeline: Timeline) -> dict[str, Any]:
    """One cell as a flat record: what it is, then what it takes. Seconds, bytes, tokens; ratios have no unit."""
    trace, run = timeline.trace, cell.run
    gpus = run.shape.world_size
    samples = run.training.micro_batch * run.training.gradient_accumulation * gpus
    at_copy = [entry for site, entry in timeline.blocked_by_site().items() if COPY in site]
    return {
        **_about(cell),
        "step_seconds": timeline.seconds,
        "samples_per_second": samples / timeline.seconds,
        "tokens_per_second": trace.tokens / timeline.seconds,
        "tflops_per_gpu": float(trace.columns["flops"].sum()) / timeline.seconds / 1e12,
        "host_blocked_seconds": timeline.host_blocked,
        "blocked_at_copy_seconds": sum(seconds for _, seconds in at_copy),
        "waits_at_copy": sum(times for times, _ in at_copy),
        "exposed_seconds": timeline.exposed(),
        "kernel_seconds": _kernel_seconds(timeline),
        **{f"limit_{name}": seconds for name, seconds in timeline.limits.items()},
        "node_nic_bytes": float(timeline.cost.nic_bytes.sum()),
        "gpu_nvlink_bytes": float(timeline.cost.nvlink_bytes.sum()),
        "secondary_gathers": _secondary_gathers(trace, run.shape.hpz, gpus),
        "peak_bytes": timeline.peak_bytes,
        "fits": timeline.fits,
        "memory_wait_seconds": timeline.memory_wait,
        **_margin_summary(timeline),
        "trace_seconds": trace.about["trace_seconds"]["step"],
        "trace_peak_rss_bytes": trace.about["trace_peak_rss_bytes"],
    }


def _about(cell: Cell) -> dict[str, Any]:
    run, training = cell.run, cell.run.training
    zero = run.deepspeed["zero_optimization"]
    return {
        "table": cell.table,
        "run_id": run.run_id,
        "model": run.model,
        "variant": run.variant,
        "release": run.release,
        "nodes": run.shape.nodes,
        "ranks_per_node": run.shape.ranks_per_node,
        "hpz": run.shape.hpz,
        "gpus": run.shape.world_size,
        "micro_batch": training.micro_batch,
        "sequence_length": training.sequence_length,
        "gradient_accumulation": training.gradient_accumulation,
        "activation_checkpointing": training.activation_checkpointing,
        "prefetch_bucket": zero.get("stage3_prefetch_bucket_size"),
        "max_live_parameters": zero.get("stage3_max_live_parameters"),
        "gpu": cell.gpu,
        "network": cell.network,
        "host": cell.host,
        "evidence": EVIDENCE,
    }


def _kernel_seconds(timeline: Timeline) -> float:
    work = np.isin(timeline.trace.columns["kind"], (Kind.OP, Kind.TRANSFER))
    return float(np.nansum((timeline.end - timeline.start)[work]))


def _secondary_gathers(trace: Trace, hpz: int, world: int) -> int:
    if hpz in (1, world):
        return 0
    gathers = trace.columns["kind"] == Kind.COLLECTIVE
    names = np.array(trace.names)[trace.columns["name"][gathers]]
    sizes = np.array([len(group) for group in trace.groups])[trace.columns["group"][gathers]]
    return int(((names == "all_gather") & (sizes == hpz)).sum())


def _margin_summary(timeline: Timeline) -> dict[str, Any]:
    margins = np.array(list(timeline.margins().values()))
    if not margins.size:
        return {"margin_min_us": None, "margin_median_us": None, "parameters_gathered": 0, "overtaken": 0}
    return {
        "margin_min_us": float(margins.min() * 1e6),
        "margin_median_us": float(np.median(margins) * 1e6),
        "parameters_gathered": int(margins.size),
        "overtaken": int((margins < 0).sum()),
    }


def margin_records(record: dict[str, Any], timeline: Timeline) -> list[dict[str, Any]]:
    """One row a parameter: microseconds from the end of its copy to the start of its gather."""
    about = {key: record[key] for key in ("run_id", *SAME_TRAINING, *SAME_CLUSTER, "evidence")}
    return [
        {**about, "parameter": name, "margin_us": seconds * 1e6}
        for name, seconds in timeline.margins().items()
    ]


# ---- the tables


def sync_cost(simulated: Simulated) -> pd.DataFrame:
    """Each ordering against the unordered one and ZeRO-3 on the same cluster.

    Adds: `cost_of_order` (step time over unordered − 1), `speedup_over_zero3`, `speed_kept` (of unordered, the second
    reading of "98 %"), `lost_overlap_seconds` (communication exposed beyond that of unordered).
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
    """One row a cell: can the gather overtake the copy? `verdict` is `strikes`, `close` (under 100 µs) or `hidden`."""
    table = simulated.table("windows")

    def verdict(row: Any) -> str:
        if row["parameters_gathered"] == 0:
            return "nothing gathered"
        if row["overtaken"]:
            return "strikes"
        return "close" if row["margin_min_us"] < 100 else "hidden"

    table["verdict"] = [verdict(row) for _, row in table.iterrows()]
    return table


def hpz_sizes(simulated: Simulated) -> pd.DataFrame:
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

    Each is `reached` or `not reached` by the simulated fix, or `impossible by bytes` alone (R1). A reading whose
    reference was not simulated is left out.
    """
    readings = []
    for row in table[table["variant"] == "fixed"].to_dict("records"):
        about = {key: row[key] for key in (*SAME_TRAINING, *SAME_CLUSTER, "evidence")}
        for reading, reference, simulated, bound in (
            ("R1", "zero3", row["speedup_over_zero3"], row["bytes_bound"]),
            ("R2", "unordered", row["speed_kept"], None),
        ):
            if pd.notna(simulated):
                found = {"claimed": CLAIMED[reading], "simulated": simulated, "bytes_bound": bound}
                found["judgement"] = _judged(simulated, CLAIMED[reading], bound)
                run_ids = [row["run_id"], row[f"{reference}_run_id"]]
                readings.append({**about, "reading": reading, "run_ids": run_ids, **found})
    return readings


def _judged(simulated: float, claimed: float, bound: float | None) -> str:
    if bound is not None and bound < claimed:
        return "impossible by bytes"
    return "reached" if simulated >= claimed else "not reached"


# ---- files


def write(simulated: Simulated, folder: Path) -> dict[str, Path]:
    """Write every table as csv, and all of them as simulated.json, into `folder`; returns the files by name."""
    folder.mkdir(parents=True, exist_ok=True)
    tables = {"cells": simulated.cells, "margins": simulated.margins}
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
        if name not in ("margins", "claims"):
            content[name] = json.loads(table.to_json(orient="records"))
    files["json"] = folder / "simulated.json"
    write_text_whole(files["json"], json.dumps(content, indent=1, allow_nan=False) + "\n")
    return files


def read(folder: Path, study: str) -> Simulated:
    """What `write` wrote. Raises OSError where it is not there."""
    return Simulated(study, pd.read_csv(folder / "cells.csv"), pd.read_csv(folder / "margins.csv"))
