"""Made-up results of a pretraining sweep at real size: its numbers come from a seeded generator, not from a cluster."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from harness.budget import model_flops_per_token, model_of
from harness.record import RunDirectory, StepRecord, StepWriter
from harness.study import Run, Study, save_study
from harness.study.models import SHIPPED_MODELS
from harness.system.whole_file import write_json
from harness.system.yaml_file import read_keys

CARD = "NVIDIA A100-SXM4-80GB"
MODELS = ("llama2-7b", "falcon-7b", "llama2-13b", "falcon-40b", "llama2-70b")
# Made up: the share of its peak that a card reaches under each variant, and what another node costs of it.
SHARES = {
    "zero3": 0.21,
    "stock": 0.41,
    "unordered": 0.405,
    "fixed": 0.39,
    "event": 0.40,
    "event+step": 0.398,
}


def sweep(steps: int = 60, models: tuple[str, ...] = MODELS, **changes: Any) -> Study:
    """Models × variants × nodes × seeds on GPUs of several machines, with held-out losses."""
    return Study.model_validate(
        {
            "name": "made-up-pretraining",
            "question": "What would a sweep at real size show?",
            "device": "cuda",
            "release": "0.19.8",
            "gpu": "a100-sxm-80gb",
            "training": {
                "steps": steps,
                "micro_batch": 1,
                "sequence_length": 2048,
                "global_batch": 2048 * 96,
                "activation_checkpointing": True,
                "validate_every": max(1, steps // 6),
            },
            "data": {"file": "made-up.jsonl", "packed": True, "sha256": "0" * 64},
            "rule": {"warmup_steps_dropped": 5, "minimum_seeds": 3},
            "matrix": {
                "model": list(models),
                "variant": ["unordered", "fixed", "event"],
                "shape": ["2x8-hpz8", "4x8-hpz8"],
                "seed": [1, 2, 3],
            },
            "models": {name: read_keys(SHIPPED_MODELS / f"{name}.yaml", "") for name in models},
            **changes,
        }
    )


def write_sweep(folder: Path, study: Study) -> None:
    """A results folder in which every run of the study is done."""
    save_study(study, folder)
    for run in study.runs:
        _write_run(folder, run)


def _write_run(folder: Path, run: Run) -> None:
    directory = RunDirectory(folder / "runs" / run.run_id)
    directory.create(run)
    writer = StepWriter(directory.steps_file)
    records = steps_of(run)
    for step in records:
        writer.write(step)
    writer.close()
    held_out = [step.validation_loss for step in records if step.validation_loss is not None]
    ranks = range(run.shape.world_size)
    final = {
        "steps": len(records),
        "skipped_steps": 0,
        "shards_sha256": "0" * 64,
        "memory_allocated": [40_000_000_000 + 1_000_000 * rank for rank in ranks],
        "memory_reserved": [44_000_000_000 + 1_000_000 * rank for rank in ranks],
        "validation_loss": held_out[-1] if held_out else None,
    }
    write_json(
        directory.status_file,
        {"schema_version": 1, "state": "done", "attempts": 1, "final": final, "reason": None, "gpu": CARD},
    )


def steps_of(run: Run) -> list[StepRecord]:
    """Losses that depend on model and seed alone but where the race spoils them; times that depend on the variant."""
    model, training, world = model_of(run), run.training, run.shape.world_size
    alike = np.random.default_rng([run.seed, model.parameters % 2**31])
    own = np.random.default_rng([run.seed, len(run.run_id), sum(run.run_id.encode())])
    at = np.arange(training.steps)
    loss = 1.9 + 9 * np.exp(-at / (0.16 * training.steps)) + alike.normal(0, 0.05, len(at))
    if run.variant == "unordered":
        loss = loss + np.where(at > 0.4 * training.steps, 0.02 * (at - 0.4 * training.steps), 0)
    flops = run.tokens_per_step * model_flops_per_token(model, training.sequence_length) / world
    share = SHARES[run.variant] * (1 - 0.03 * (run.shape.nodes - 2))
    seconds = flops / (312e12 * share) * own.lognormal(0, 0.01, len(at))
    every = training.validate_every
    return [
        StepRecord(
            step=int(step),
            loss=float(loss[step]),
            grad_norm=float(0.5 * loss[step]),
            lr=training.learning_rate,
            tokens=run.tokens_per_step,
            step_seconds=float(seconds[step]),
            secondary_gathers=64 if run.shape.hpz > 1 else 0,
            host_syncs=6,
            bytes_intra=2000,
            bytes_inter=1000,
            skipped=False,
            batch_hash=int(step),
            forward_seconds=float(0.3 * seconds[step]),
            backward_seconds=float(0.62 * seconds[step]),
            optimizer_seconds=float(0.05 * seconds[step]),
            exposed_comm_seconds=float((0.45 if run.shape.hpz == 1 else 0.12) * seconds[step]),
            memory_allocated=40_000_000_000,
            memory_reserved=44_000_000_000,
            validation_loss=float(loss[step] + 0.1) if every and (step + 1) % every == 0 else None,
        )
        for step in at
    ]
