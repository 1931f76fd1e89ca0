"""Simulated beside published: every training row of a file of measurements, with what had to be assumed for it.

For what a row does not state every candidate is simulated; the prediction is the middle of their range, and the range
is shown. Nothing is fitted to a row. Where a row cannot be simulated, the reason stands in its place.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from itertools import product
from math import exp, log
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import spearmanr

from harness.hardware import Cluster, Network, find
from harness.hardware.profiles import profiles
from harness.simulate import shapes, stated
from harness.simulate.blocks import trace_of_step
from harness.simulate.engine import simulate
from harness.simulate.stated import CannotSimulate, Row, Stated
from harness.simulate.transformer import Step, needed_bytes
from harness.system.errors import HarnessError

NEEDED = (
    *("model", "params", "gpus", "gpu_type", "nodes", "gpus_per_node", "inter_link_gbps", "seq_len"),
    *("micro_batch", "grad_acc", "act_ckpt", "attention", "sharding", "precision", "framework"),
    *("metric", "value", "notes"),
)
MOST_CANDIDATES = 48
CLEARLY = 1.3  # what a step needs is estimated without knowing its stack
DETERMINED = 1.3  # ratio of the ends of the range that the unknown settings leave, at most
GOALS = {"median": 0.10, "mean": 0.15, "rank_correlation": 0.95}
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Candidate:
    """One reading of a row."""

    step: Step
    on: Cluster
    accumulation: int  # of the row; the step holds two micro-batches at most
    recomputation: bool  # is counted in TFLOP/s


Metric = Callable[["Candidate", "Phases"], float]


@dataclass(frozen=True)
class Phases:
    """Seconds of one step."""

    step: float
    forward: float
    backward: float
    update: float


def read_rows(file: Path) -> list[dict[str, str]]:
    """The rows of a file of measurements. Raises HarnessError where a column is missing."""
    try:
        with file.open(newline="") as stream:
            rows = list(csv.DictReader(stream))
    except (OSError, UnicodeDecodeError) as error:
        raise HarnessError(f"{file}: cannot be read: {error}") from error
    if not rows:
        raise HarnessError(f"{file}: holds no row; columns of a measurement: {', '.join(NEEDED)}")
    if missing := [name for name in NEEDED if name not in rows[0]]:
        raise HarnessError(
            f"{file}: lacks the columns {', '.join(missing)}; see harness/simulate/published.csv"
        )
    return [{name: value or "" for name, value in row.items() if name} for row in rows]


def against(rows: list[dict[str, str]], progress: Progress = lambda done, of: None) -> pd.DataFrame:
    """One row a measurement of training: predicted, its range, the error, what was assumed, or why it has none.

    `error` is predicted / measured − 1 in the row's own metric, so that above 0 a rate is too high or a time too long.
    """
    training = [(number, row) for number, row in enumerate(rows) if row["sharding"].strip()]
    found = []
    for done, (number, row) in enumerate(training, start=1):
        found.append({"row": number, **_about(row), **_predicted(row)})
        progress(done, len(training))
    return pd.DataFrame(found)


def _about(row: Row) -> dict[str, Any]:
    names = ("source", "model", "gpus", "gpu_type", "sharding", "framework", "metric", "value", "unit")
    return {**{name: row.get(name, "") for name in names}, "network_gbps": row["inter_link_gbps"]}


def _predicted(row: Row) -> dict[str, Any]:
    nothing = dict.fromkeys(("measured", "predicted", "low", "high", "error", "inside", "outside"))
    try:
        measured, of = metric_of(row)
        readings, assumed = candidates(row)
        values = sorted(of(reading, phases(reading)) for reading in readings)
    except CannotSimulate as reason:
        return {**nothing, "assumed": "", "comparable": False, "determined": False, "why_not": str(reason)}
    middle = exp((log(values[0]) + log(values[-1])) / 2)
    doubtful = "UNCERTAIN" in row["notes"]
    return {
        "measured": measured,
        "predicted": middle,
        "low": values[0],
        "high": values[-1],
        "error": middle / measured - 1,
        "inside": values[0] <= measured <= values[-1],
        "outside": max(values[0] / measured - 1, 1 - values[-1] / measured, 0.0),
        "assumed": assumed,
        "comparable": not doubtful,
        "determined": not doubtful and values[-1] <= DETERMINED * values[0],
        "why_not": "the table marks it as uncertain" if doubtful else "",
    }


# ---- one row


def candidates(row: Row) -> tuple[list[Candidate], str]:
    """All readings of a row, and in words what was assumed. Raises CannotSimulate."""
    parts: dict[str, Stated] = {
        "model": shapes.model_of(row),
        "gpu": stated.gpu_of(row),
        "nodes": stated.nodes_of(row),
        "network": stated.network_of(row),
        "batch": stated.batch_of(row),
        "checkpointing": stated.checkpointing_of(row),
        "attention": stated.attention_of(row),
        "stack": stated.stack_of(row),
        "fused": stated.kernels_of(row),
        "recomputation": stated.recomputation_of(row),
    }
    parts["ahead"] = stated.overlap_of(row, parts["model"].values[0])
    combined = product(*(part.values for part in parts.values()))
    read = (_candidate(dict(zip(parts, values, strict=True))) for values in combined)
    readings = list(read)
    readings = [reading for reading in readings if _fits(reading)] or readings
    return readings[:MOST_CANDIDATES], "; ".join(part.assumed for part in parts.values() if part.assumed)


def _fits(reading: Candidate) -> bool:
    """What needs clearly more memory than the card has was not run."""
    return needed_bytes(reading.step) <= CLEARLY * reading.on.gpu.memory_bytes


def _candidate(value: dict[str, Any]) -> Candidate:
    (nodes, per_node), (micro, length, accumulation) = value["nodes"], value["batch"]
    attention, version = value["attention"]
    step = Step(
        model=value["model"],
        nodes=nodes,
        ranks_per_node=per_node,
        micro_batch=micro,
        sequence_length=length,
        checkpointing=value["checkpointing"],
        attention=attention,
        fused=value["fused"],
        blocks_ahead=value["ahead"],
        **value["stack"],
    )
    on = _cluster(value["gpu"], value["network"], version)
    return Candidate(step, on, accumulation, value["recomputation"])


ATTENTION_OF_VERSION = {1: 0.55, 2: 1.0, 3: 1.5}
"""Speed of fused attention against FlashAttention-2 (Dao 2023, figures 5 and 6; Shah and others 2024, figure 5)."""


def _cluster(gpu: str, network: tuple[float, str, float], version: int) -> Cluster:
    card = find("gpus", gpu)
    share = min(1.0, card.attention_efficiency * ATTENTION_OF_VERSION[version])
    return Cluster(
        gpu=card.model_copy(update={"attention_efficiency": share}),
        network=_network(*network),
        host=find("hosts", "server"),
    )


def _network(gbps: float, kind: str, efficiency: float) -> Network:
    """A network of this rate with the latencies of the nearest profile of its kind."""
    same = {name: profile for name, profile in profiles("networks").items() if name.startswith(kind)}
    like = min(same.values(), key=lambda profile: abs(log(profile.bits_per_second / (gbps * 1e9))))
    return Network.model_validate({**dict(like), "bits_per_second": gbps * 1e9, "efficiency": efficiency})


def phases(reading: Candidate) -> Phases:
    """The step in steady state; of more than two micro-batches all but the first take what the second takes."""
    one = _run(reading.step, reading.on)
    if reading.accumulation == 1:
        return one
    two = _run(replace(reading.step, accumulation=2), reading.on)
    return replace(two, step=one.step + (reading.accumulation - 1) * (two.step - one.step))


@cache
def _run(step: Step, on: Cluster) -> Phases:
    """Rows of one source often measure the same step."""
    timeline = simulate(trace_of_step(step), on)
    marks = timeline.trace.about["marks"]
    begin = timeline.step_start

    def reached(row: int) -> float:
        return float(np.nanmax(timeline.end[:row])) - begin

    forward, backward = reached(marks["forward"]), reached(marks["backward"])
    return Phases(timeline.seconds, forward, backward - forward, timeline.seconds - backward)


# ---- the metric


def metric_of(row: Row) -> tuple[float, Metric]:
    """The measured value and what of a simulated step it is, in the row's unit. Raises CannotSimulate."""
    name, found_value = row["metric"].lower(), re.match(r"\s*(\d[\d,]*\.?\d*|\.\d+)(?![\w.,])", row["value"])
    value = float(found_value[1].replace(",", "")) if found_value else 0.0
    if not value:
        raise CannotSimulate(f"value {row['value']!r} is no measurement")
    found = next((of for words, of in METRICS if re.search(words, name)), None)
    if found is None or "change" in name:
        raise CannotSimulate(f"metric {row['metric']!r} is not of a simulated step")
    if "time" in name and row.get("unit", "").strip().startswith("ms"):
        return value / 1e3, found
    return value, found


def _samples(reading: Candidate) -> int:
    return reading.step.micro_batch * reading.accumulation


def _tokens(reading: Candidate) -> int:
    return reading.step.tokens * reading.accumulation


def _model_flops(reading: Candidate) -> float:
    return reading.step.model.flops_per_token(reading.step.sequence_length) * _tokens(reading)


def _hardware_flops(reading: Candidate) -> float:
    again = reading.recomputation and reading.step.checkpointing == "full"
    return _model_flops(reading) * (4 / 3 if again else 1.0)


METRICS: tuple[tuple[str, Metric], ...] = (
    (r"tokens.*per_(gpu|device)|tokens/s/gpu|^tgs", lambda reading, times: _tokens(reading) / times.step),
    (r"tokens", lambda reading, times: _tokens(reading) * reading.step.world / times.step),
    (r"samples", lambda reading, times: _samples(reading) * reading.step.world / times.step),
    (r"model_tflops", lambda reading, times: _model_flops(reading) / times.step / 1e12),
    (r"tflops", lambda reading, times: _hardware_flops(reading) / times.step / 1e12),
    (r"(iteration|step)_time", lambda reading, times: times.step),
    (r"forward.*time", lambda reading, times: times.forward),
    (r"backward.*time", lambda reading, times: times.backward),
    (r"optimizer_time", lambda reading, times: times.update),
)


# ---- all of them


def errors(table: pd.DataFrame) -> dict[str, Any]:
    """Median and mean of the absolute error and rank correlation over the comparable rows of a table.

    `determined` has the same of those whose unknown settings leave less than a factor of 1.3.
    """
    found = _errors(table[table["comparable"] & table["error"].notna()])
    return {**found, "determined": _errors(table[table["determined"].astype(bool)])}


def _errors(good: pd.DataFrame) -> dict[str, Any]:
    size = good["error"].abs()
    outside = good["outside"]
    pair = good[["predicted", "measured"]]
    ranked = len(good) > 2 and (pair.nunique() > 1).all()  # what is all the same has no order
    ranks = spearmanr(pair["predicted"], pair["measured"]).statistic if ranked else float("nan")
    return {
        "rows": len(good),
        "median": float(size.median()) if len(good) else float("nan"),
        "mean": float(size.mean()) if len(good) else float("nan"),
        "rank_correlation": float(ranks),
        "median_outside": float(outside.median()) if len(good) else float("nan"),
        "mean_outside": float(outside.mean()) if len(good) else float("nan"),
        "inside": float(good["inside"].astype(bool).mean()) if len(good) else float("nan"),
    }


GROUPS = {"card": "gpu_type", "network, Gbit/s": "network_gbps", "framework": "framework"}
"""What errors are told by: heading → column."""


def by(table: pd.DataFrame, column: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The errors of each value of a column."""
    for name, part in table[table["comparable"]].groupby(column, sort=True):
        yield str(name), errors(part)
