"""Validation: simulated numbers beside measured ones that no parameter was fitted to, with the error of each.

Measured are published throughputs (`published.yaml`) and, where they lie on this machine, the runs of a study over a
slow link. What no measurement covers is listed, too.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from harness.hardware import Cluster, Gpu, Host, Network, cluster
from harness.simulate.against import against, read_rows
from harness.simulate.engine import simulate
from harness.simulate.published import Published, judgement, published
from harness.simulate.records import CLOCK
from harness.simulate.trace import load
from harness.simulate.traces import traces
from harness.study import Run
from harness.system.errors import HarnessError
from harness.system.places import REPOSITORY
from harness.system.whole_file import write_json, write_text_whole

MEASURED = (Path("results/slow-link"), REPOSITORY / "results" / "reference" / "slow-link")
MEASUREMENTS = Path(__file__).with_name("published.csv")
TABLES = ("published", "measured", "table")
Progress = Callable[[str], None]
Loader = Callable[[Path], tuple[pd.DataFrame, pd.DataFrame]]
"""The runs and steps of a results folder, as `analysis.collect` gives them; raises HarnessError where it holds none."""

NOT_VALIDATED = (
    "Steps of hpZ on A100 and H100: no published measurement with all settings known was found; of other stacks the "
    "table of published measurements has some.",
    "The cost of each ordering: nobody has published step times with and without the synchronise.",
    "The race window: no published measurement of when the copy ends and the gather starts.",
    "The 12.5 Gbps Ethernet cluster of the paper: its step times are not public.",
    "Fused attention: models attend step by step through memory (Hugging Face's eager attention), an eighth of "
    "the compute at 7B with 16 sequences of 2,048 tokens. A fused one needs less, and narrows the race's windows.",
    "hpZ on more than 384 GPUs, and hpZ groups that span nodes.",
    "How many multiprocessors NCCL's kernels take from those beside them: between 8 and 24, which is in the ranges.",
    "Python and hook overhead on a server's host thread: the profile server of hosts.yaml, and 0.4 to 1.5 times it.",
    "Processors that CPU ranks share with each other and with gloo's threads: each rank's own work and the link count.",
    "Stragglers, congestion, and ranks that differ: all ranks are taken to be alike.",
)


def _quiet(_: str) -> None:
    pass


def validate_published(host: str = "server", lanes: int = 1, progress: Progress = _quiet) -> pd.DataFrame:
    """One row for each entry, shape and network: simulated and measured samples/s and speed-up, with errors."""
    entries = published()
    runs = [run for entry in entries for shape in entry.shapes for run in entry.runs(shape)]
    files = traces(runs, lanes=lanes, progress=progress)
    rows = []
    for entry in entries:
        for shape in entry.shapes:
            base, ours = entry.runs(shape)
            loaded = load(files[base.run_id]), load(files[ours.run_id])
            for network in entry.networks:
                on = cluster(entry.gpu, network, host)
                seconds = [simulate(trace, on).seconds for trace in loaded]
                rows.append(_row(entry, shape, network, ours, seconds))
    return pd.DataFrame(rows)


def _row(entry: Published, shape: str, network: str, run: Run, seconds: list[float]) -> dict[str, Any]:
    samples = run.training.micro_batch * run.training.gradient_accumulation * run.shape.world_size
    measured = entry.measured
    base, ours = (samples / each for each in seconds)
    speedup = seconds[0] / seconds[1]
    known = "samples_per_second" in measured
    ratio = measured["samples_per_second"] / measured["baseline_samples_per_second"] if known else None
    return {
        "id": entry.id,
        "statement": entry.statement,
        "source": entry.source,
        "shape": shape,
        "network": network,
        "gpu": entry.gpu,
        "simulated_baseline_samples_per_second": base,
        "measured_baseline_samples_per_second": measured.get("baseline_samples_per_second"),
        "simulated_samples_per_second": ours,
        "measured_samples_per_second": measured.get("samples_per_second"),
        "baseline_error": base / measured["baseline_samples_per_second"] - 1 if known else None,
        "error": ours / measured["samples_per_second"] - 1 if known else None,
        "simulated_speedup": speedup,
        "measured_speedup": ratio,
        "measured_speedup_low": measured.get("speedup_low"),
        "measured_speedup_high": measured.get("speedup_high"),
        "speedup_error": speedup / ratio - 1 if ratio else None,
        "comparable": entry.comparable,
        "judgement": judgement(entry, speedup),
        "unknown": entry.unknown,
        "evidence": "simulated-time",
    }


# ---- a study that was really run over a slow link


@dataclass(frozen=True)
class Measured:
    """One run that was really made, and its link."""

    run_id: str  # as recorded
    run: Run
    seconds: float  # median of its steps after warm-up

    @property
    def bits_per_second(self) -> float:
        """Between nodes, as the run's link was given."""
        rate = str(self.run.link)
        unit = next(name for name in UNITS if rate.endswith(name))
        return float(rate.removesuffix(unit)) * UNITS[unit]


UNITS = {"kbit": 1e3, "mbit": 1e6, "gbit": 1e9}


def measured_runs(results: Path, load_tables: Loader, dropped: int = 3) -> list[Measured]:
    """The finished runs of a results folder that were made over links of a known rate.

    Raises HarnessError where the folder holds no results.
    """
    recorded, steps = load_tables(results)
    steps = steps[steps["step"] >= dropped]
    medians = steps.groupby("run_id", observed=True)["step_seconds"].median()
    seconds = {str(run_id): float(value) for run_id, value in medians.items()}
    records = recorded[recorded["state"] == "done"].set_index("run_id")["record"]
    runs = {run_id: Run.model_validate(json.loads(record)["run"]) for run_id, record in records.items()}
    return [
        Measured(str(run_id), run, seconds[run_id])
        for run_id, run in runs.items()
        if run.link and run_id in seconds
    ]


def cpu_cluster(calibration: Mapping[str, Any], bits_per_second: float, local: float = 1e9) -> Cluster:
    """CPU ranks behind a limited link, from what `hpz calibrate` fitted; ranks of a node speak at `local` bytes/s."""
    flops, bandwidth = calibration["flops"], calibration["memory_bandwidth"]
    gpu = Gpu(
        source="hpz calibrate",
        half_flops=flops,
        single_flops=flops,
        matmul_efficiency=1.0,
        memory_bandwidth=bandwidth,
        memory_efficiency=1.0,
        memory_bytes=1e12,
        kernel_seconds=0.0,
        nvlink_bandwidth=local,
        nvlink_efficiency=1.0,
        nvlink_latency=50e-6,
        pcie_bandwidth=bandwidth,
    )
    network = Network(
        source="the link as limited",
        bits_per_second=bits_per_second,
        efficiency=0.95,
        latency=200e-6,
        algorithm="gloo",
    )
    host = Host(source="hpz calibrate", **calibration["host"])
    return Cluster(gpu=gpu, network=network, host=host, streams=False)


def validate_measured(
    runs: Sequence[Measured],
    calibration: Mapping[str, Any],
    lanes: int = 1,
    progress: Progress = _quiet,
) -> pd.DataFrame:
    """One row a run: measured and simulated step seconds, and the error.

    Of the network only the rate of the link is known; nothing is fitted to these runs.
    """
    files = traces([one.run for one in runs], lanes=lanes, progress=progress)
    rows = []
    for one in runs:
        on = cpu_cluster(calibration, one.bits_per_second)
        seconds = simulate(load(files[one.run.run_id]), on).seconds
        rows.append(
            {
                "run_id": one.run_id,
                "model": one.run.model,
                "variant": one.run.variant,
                "nodes": one.run.shape.nodes,
                "ranks_per_node": one.run.shape.ranks_per_node,
                "gradient_accumulation": one.run.training.gradient_accumulation,
                "link": one.run.link,
                "link_bits_per_second": one.bits_per_second,
                "measured_seconds": one.seconds,
                "simulated_seconds": seconds,
                "error": seconds / one.seconds - 1,
                "measured_evidence": one.run.evidence,
                "evidence": "simulated-time",
            }
        )
    return pd.DataFrame(rows).pipe(_with_speedups)


def _with_speedups(table: pd.DataFrame) -> pd.DataFrame:
    """Adds the speed-up over ZeRO-3 of the same link and accumulation, measured and simulated, and its error."""
    keys = ["model", "nodes", "ranks_per_node", "gradient_accumulation", "link"]
    base = table[table["variant"] == "zero3"].drop_duplicates(keys).set_index(keys)
    found = base.reindex(pd.MultiIndex.from_frame(table[keys]))
    for kind in ("measured", "simulated"):
        table[f"{kind}_speedup"] = found[f"{kind}_seconds"].to_numpy() / table[f"{kind}_seconds"]
    table["speedup_error"] = table["simulated_speedup"] / table["measured_speedup"] - 1
    return table


# ---- all of it, and its files


@dataclass(frozen=True, eq=False)
class Validation:
    """Simulated beside measured. `about` says what the measured runs are, or why there are none."""

    published: pd.DataFrame
    measured: pd.DataFrame
    about: Mapping[str, Any]
    table: pd.DataFrame = field(default_factory=pd.DataFrame)
    """Every row of published.csv, as `harness.simulate.against` gives them."""


def validate(
    load_tables: Loader, measured: Path | None = None, lanes: int = 1, progress: Progress = _quiet
) -> Validation:
    """Published throughputs, and the runs of `measured` (default: the first of `MEASURED` with finished ones).

    The calibration of the machine that made those runs is read from their folder; a folder of this machine's own
    results that has none yet is calibrated now. Raises HarnessError and RunFailed.
    """
    table = against(read_rows(MEASUREMENTS))
    pairs = validate_published(lanes=lanes, progress=progress)
    about: dict[str, Any] = {"schema": 1, "evidence": "simulated-time", "not_validated": list(NOT_VALIDATED)}
    about |= {"clock": CLOCK, "made": datetime.now(UTC).date().isoformat()}
    folder, runs = _finished(measured, load_tables)
    if folder is None:
        lacking = (
            "no results of experiments/slow-link.yaml on this machine; run that study, then simulate again"
        )
        return Validation(pairs, pd.DataFrame(), about | {"measured": lacking}, table)
    calibration = _calibration(folder)
    if calibration is None:
        lacking = f"{folder.name} was run on another machine, and its calibration is not known"
        return Validation(pairs, pd.DataFrame(), about | {"measured": lacking}, table)
    held = validate_measured(runs, calibration, lanes, progress)
    return Validation(pairs, held, about | {"measured": folder.name, "calibration": calibration}, table)


def _finished(named: Path | None, load_tables: Loader) -> tuple[Path | None, list[Measured]]:
    """The results named, or the first of `MEASURED` that hold finished runs, and those. Raises HarnessError."""
    if named is not None:
        if runs := measured_runs(named, load_tables):
            return named, runs
        raise HarnessError(
            f"{named}: holds no finished run over a link of known rate; run experiments/slow-link.yaml to its end"
        )
    for place in MEASURED:
        with contextlib.suppress(HarnessError):  # a study that was submitted and has recorded nothing yet
            if runs := measured_runs(place, load_tables):
                return place, runs
    return None, []


def _calibration(folder: Path) -> dict[str, Any] | None:
    """The fit of the machine that made a folder's runs; fitted now where they were made here (no reference results)."""
    file = folder / "calibration.json"
    if not file.exists():
        if folder.resolve().is_relative_to(REPOSITORY / "results" / "reference"):
            return None
        from harness.simulate.calibrate import calibrate_machine

        write_json(file, calibrate_machine().record())
    content: dict[str, Any] = json.loads(file.read_text())
    return content


def write_validation(validation: Validation, folder: Path) -> None:
    """validation.json and, where they have rows, a validation_….csv of each table."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in TABLES:
        table, file = getattr(validation, name), folder / f"validation_{name}.csv"
        if len(table):
            write_text_whole(file, table.to_csv(index=False))
        else:
            file.unlink(missing_ok=True)
    write_json(folder / "validation.json", dict(validation.about))


def read_validation(folder: Path) -> Validation | None:
    """What `write_validation` wrote; None where nothing was validated."""
    if not (folder / "validation.json").exists():
        return None
    files = {name: folder / f"validation_{name}.csv" for name in TABLES}
    tables = {name: pd.read_csv(file) if file.exists() else pd.DataFrame() for name, file in files.items()}
    return Validation(**tables, about=json.loads((folder / "validation.json").read_text()))
