"""What dashboards are told of a run's steps: names with their units, and the names that a user's own runs go by.

Our own names are those of the run directory. Beside them stand the names under which DeepSpeed's monitor and Hugging
Face's Trainer tell wandb the same values, so that one chart shows a user's runs and ours.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from harness.budget import model_flops_per_token, model_of
from harness.study import Run

NOT_TOLD = {"schema", "nonfinite", "utc", "tokens", "batch_hash"}
WITH_UNITS = {"memory_allocated": "memory_allocated_bytes", "memory_reserved": "memory_reserved_bytes"}
# DeepSpeed's (runtime/engine.py, train_loss before 0.18.3 and in runtime/pipe/engine.py, eval_loss there alone), told
# at the step that is the count of samples; with the factor to the unit.
DEEPSPEED = {
    "Train/Samples/train_loss": ("loss", 1.0),
    "Train/Samples/eval_loss": ("validation_loss", 1.0),
    "Train/Samples/lr": ("lr", 1.0),
    "Train/Samples/elapsed_time_ms_forward": ("forward_seconds", 1e3),
    "Train/Samples/elapsed_time_ms_backward": ("backward_seconds", 1e3),
    "Train/Samples/elapsed_time_ms_step": ("optimizer_seconds", 1e3),
}
# The Trainer's (transformers/integrations/integration_utils.py), against train/global_step, which counts from 1.
TRAINER = {
    "train/loss": ("loss", 1.0),
    "train/grad_norm": ("grad_norm", 1.0),
    "train/learning_rate": ("lr", 1.0),
    "eval/loss": ("validation_loss", 1.0),
}
AXES = ("step", "tokens", "samples", "elapsed_seconds", "train/global_step")


@dataclass(frozen=True)
class Told:
    """One step as it is told: its number, when it was recorded (Unix seconds), and the values by name."""

    step: int
    when: float | None
    values: dict[str, Any]


def told_steps(lines: Iterable[Mapping[str, Any]], run: Run, after: int = -1) -> Iterator[Told]:
    """Each step beyond `after`, given the lines of all steps.

    `tokens`, `samples` and `elapsed_seconds` are of the run so far.
    """
    elapsed, per_step = 0.0, run.tokens_per_step
    flops = model_flops_per_token(model_of(run), run.training.sequence_length)
    for line in lines:
        step = int(line["step"])
        elapsed += line.get("step_seconds") or 0.0
        if step <= after:
            continue
        values = {
            WITH_UNITS.get(key, key): value
            for key, value in line.items()
            if key not in NOT_TOLD and value is not None
        }
        values |= _nonfinite(line)
        values |= {
            "step_tokens": line.get("tokens"),
            "tokens": (step + 1) * per_step,
            "samples": (step + 1) * per_step // run.training.sequence_length,
            "elapsed_seconds": elapsed,
            "train/global_step": step + 1,
        }
        values |= step_rates(run, line, flops)
        aliases = (DEEPSPEED | TRAINER).items()
        values |= {alias: values[name] * unit for alias, (name, unit) in aliases if name in values}
        yield Told(step, _unix(line.get("utc")), values)


def step_rates(run: Run, line: Mapping[str, Any], flops: float) -> dict[str, float]:
    """Throughput of a step as the report states it; not of the virtual device, whose seconds mean nothing.

    `flops` are the model's FLOPs a token.
    """
    if run.device == "virtual" or not line["step_seconds"]:
        return {}
    rate = line["tokens"] / line["step_seconds"]
    a_rank = rate / run.shape.world_size
    return {
        "tokens_per_second": rate,
        "tokens_per_second_per_rank": a_rank,
        "model_tflops_per_rank": a_rank * flops / 1e12,
    }


def config_of(run: Run) -> dict[str, Any]:
    """The run as one level of keys, and `series`, which runs share that differ in their seeds alone."""
    return {**flat(run.model_dump(mode="json", exclude={"model_spec"})), "series": series_of(run)}


def series_of(run: Run) -> str:
    """Readable name, and a hash, of the run's settings but for its seed."""
    settings = run.model_dump(mode="json", exclude={"study", "patches", "seed", "model_spec"})
    hashed = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:6]
    return f"{run.run_id.rsplit('_s', 1)[0]}_{hashed}"


def flat(nested: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """A nested mapping as one level, its keys joined by dots."""
    found: dict[str, Any] = {}
    for key, value in nested.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{above}{key}.")
        else:
            found[f"{above}{key}"] = value
    return found


def read_lines(file: Path) -> Iterator[dict[str, Any]]:
    """Whole lines only: the last one may still be written."""
    for text in file.read_text().splitlines() if file.exists() else []:
        try:
            yield json.loads(text)
        except ValueError:
            return


def _nonfinite(line: Mapping[str, Any]) -> dict[str, float]:
    pairs = (pair.split("=") for pair in (line.get("nonfinite") or "").split())
    return {key: float(value) for key, value in pairs}


def _unix(utc: str | datetime | None) -> float | None:
    if utc is None:
        return None
    return (datetime.fromisoformat(utc) if isinstance(utc, str) else utc).timestamp()
