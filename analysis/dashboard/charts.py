"""Which charts a dashboard has, as data: wandb's workspace and report and the local one are made from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from harness.study import Study


@dataclass(frozen=True)
class Chart:
    """One chart: a metric of each step against `x`, or of each run (`x` None); unit and meaning stand in its title."""

    title: str
    metric: str
    x: str | None = "step"
    # What is drawn of runs that share a line, and what around it.
    drawn: Literal["mean", "min"] = "mean"
    area: Literal["minmax", "stderr"] = "minmax"
    log: bool = False


@dataclass(frozen=True)
class Part:
    """Charts that answer one question; `own` ones are for a user's runs beside ours, a line a run."""

    key: str
    name: str
    charts: tuple[Chart, ...]
    own: bool = False


TRAINS = Part(
    "training",
    "Does it train as ZeRO-3 does?",
    (
        Chart("Loss (nats a token): mean and range of seeds", "loss"),
        Chart("Gradient norm before clipping", "grad_norm", log=True),
        Chart("First bad step", "first_bad_step", x=None, drawn="min"),
        Chart("Largest difference of losses from the baseline", "max_abs_loss_difference", x=None),
        Chart("Loss against tokens", "loss", x="tokens"),
        Chart("Held-out loss (nats a token)", "validation_loss"),
    ),
)
SPEED = Part(
    "speed",
    "How fast is it?",
    (
        Chart("Tokens/s a rank: mean and standard error", "tokens_per_second_per_rank", area="stderr"),
        Chart(
            "Tokens/s a rank without warm-up: mean and standard error of seeds",
            "steady_tokens_per_second_per_rank",
            x=None,
            area="stderr",
        ),
        Chart("Step time over the baseline's", "step_time_ratio", x=None, area="stderr"),
        Chart("Step (s)", "step_seconds"),
        Chart("Model TFLOP/s a rank", "model_tflops_per_rank"),
        Chart("Loss against training time (s)", "loss", x="elapsed_seconds"),
    ),
)
ORDER = Part(
    "order",
    "What orders the streams, and what does it cost?",
    (
        Chart("Host waits a step, a rank", "host_syncs"),
        Chart("Host blocked in waits (s a step)", "host_blocked_seconds"),
        Chart("All-gathers of secondary shards a step", "secondary_gathers"),
        Chart("Bytes to other nodes, a node and step", "bytes_inter"),
    ),
)
# Metrics of a user's own runs, under the names that DeepSpeed's monitor and Hugging Face's Trainer give them.
DEEPSPEED = Part(
    "deepspeed",
    "Beside your own runs: DeepSpeed's monitor",
    tuple(
        Chart(f"{name} against samples", f"Train/Samples/{name}", x="Step")
        for name in (
            "train_loss",
            "lr",
            "elapsed_time_ms_forward",
            "elapsed_time_ms_backward",
            "elapsed_time_ms_step",
        )
    ),
    own=True,
)
TRAINER = Part(
    "trainer",
    "Beside your own runs: Hugging Face's Trainer",
    tuple(
        Chart(name, f"train/{name}", x="train/global_step") for name in ("loss", "grad_norm", "learning_rate")
    ),
    own=True,
)


def parts_of(study: Study) -> tuple[Part, ...]:
    """The parts that a study has something to show in: on the virtual device, seconds mean nothing."""
    timed = any(run.device != "virtual" for run in study.runs)
    return (TRAINS, *((SPEED,) if timed else ()), ORDER, DEEPSPEED, TRAINER)
