"""Simulates every setting that a study asks for: each cell's timeline as one flat record."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from harness.simulate.corners import CORNERS, at_corner
from harness.simulate.engine import simulate
from harness.simulate.plan import Cell, cells, settings_of
from harness.simulate.records import (
    CORNER_COLUMNS,
    EVIDENCE,
    MARGIN_COLUMNS,
    SAME_CLUSTER,
    SAME_TRAINING,
    Simulated,
)
from harness.simulate.timeline import Timeline
from harness.simulate.trace import Kind, Trace, load
from harness.simulate.traces import trace_file, traces
from harness.study import Study

COPY = "_partition_param_sec"  # where the fix makes the host wait
Progress = Callable[[str, int, int], None]  # what, done, of


def simulate_study(study: Study, progress: Progress = lambda what, done, of: None) -> Simulated:
    """Trace what is not in the cache, then run every timeline. Raises HarnessError and RunFailed."""
    planned, lanes = cells(study), settings_of(study).lanes
    files = _traced(planned, lanes, progress)
    records: list[dict[str, Any]] = []
    corners: list[dict[str, Any]] = []
    margins: list[dict[str, Any]] = []
    work = _by_trace(planned, files)
    with ProcessPoolExecutor(max_workers=lanes, mp_context=get_context("spawn")) as pool:
        for number, (own, ends, parts) in enumerate(pool.map(_timelines, work), start=1):
            records += own
            corners += ends
            margins += parts
            progress("timelines", number, len(work))
    order = {cell.key: place for place, cell in enumerate(planned)}
    for found in (records, corners):
        found.sort(key=lambda r: order[r["table"], r["run_id"], r["gpu"], r["network"], r["host"]])
    return Simulated(
        study.name,
        pd.DataFrame(records),
        pd.DataFrame(margins, columns=MARGIN_COLUMNS),
        pd.DataFrame(corners, columns=CORNER_COLUMNS),
    )


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


Rows = list[dict[str, Any]]


def _timelines(work: tuple[Path, list[Cell]]) -> tuple[Rows, Rows, Rows]:
    """All cells of one trace, in a process of its own: as stated, at the corners, and margins."""
    file, group = work
    trace = load(file)
    records, corners, margins = [], [], []
    known: dict[tuple[str, ...], tuple[Timeline, Rows]] = {}  # tables share cells
    for cell in group:
        if cell.key[2:] not in known:
            known[cell.key[2:]] = simulate(trace, cell.cluster), corner_records(cell, trace)
        timeline, ends = known[cell.key[2:]]
        record = cell_record(cell, timeline)
        records.append(record)
        corners += [end | {"table": cell.table} for end in ends]
        if cell.table == "windows":
            margins += margin_records(record, timeline)
    return records, corners, margins


def corner_records(cell: Cell, trace: Trace) -> Rows:
    """What the cell takes at each corner of what is known of its cluster."""
    found = []
    for name, corner in CORNERS.items():
        timeline = simulate(trace, at_corner(cell.cluster, cell.network, corner))
        record = _about(cell) | _margin_summary(timeline) | {"corner": name}
        record |= {"step_seconds": timeline.seconds, "exposed_seconds": timeline.exposed()}
        found.append({column: record[column] for column in CORNER_COLUMNS})
    return found


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
