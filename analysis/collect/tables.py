"""The two tables that every later step reads, runs and steps: their columns, what each means and in which unit."""

from __future__ import annotations

import pyarrow as pa

SCHEMA_VERSION = 1  # of steps.jsonl lines that this version reads

STEP_COLUMNS: dict[str, tuple[pa.DataType, str]] = {
    "step": (pa.int32(), "optimizer step, from 0"),
    "loss": (pa.float64(), "rank 0's mean over its micro-batches, nats per token"),
    "grad_norm": (pa.float64(), "global gradient norm before clipping"),
    "lr": (pa.float64(), "learning rate"),
    "tokens": (pa.int64(), "tokens of the whole world in this step"),
    "step_seconds": (pa.float64(), "seconds on the host's clock"),
    "secondary_gathers": (pa.int32(), "all-gathers that read secondary shards, per rank"),
    "host_syncs": (pa.int32(), "times the host waited for the device, per rank; missing where not counted"),
    "device_seconds": (pa.float64(), "seconds on the compute stream, by CUDA events; missing without a GPU"),
    "host_blocked_seconds": (
        pa.float64(),
        "seconds that the host waited in synchronises, per rank; missing where not measured",
    ),
    "bytes_intra": (pa.int64(), "bytes that one node sends inside itself"),
    "bytes_inter": (pa.int64(), "bytes that one node sends to other nodes"),
    "skipped": (pa.bool_(), "whether the optimizer step was skipped"),
    "wire_bytes": (
        pa.int64(),
        "bytes that rank 0's node put on its link, headers included; missing where unmetered",
    ),
    "wire_bytes_predicted": (pa.int64(), "the same, predicted from the step's collectives"),
    **{
        f"{name}_seconds": (
            pa.float64(),
            f"seconds of {what}, over all micro-batches: of the device on a GPU, of the host on a cpu; else missing",
        )
        for name, what in (
            ("forward", "forward passes"),
            ("backward", "backward passes"),
            ("optimizer", "the optimizer step"),
        )
    },
    "exposed_comm_seconds": (
        pa.float64(),
        "seconds that the compute stream waited for communication, by CUDA events; on a cpu the host for collectives",
    ),
    "memory_allocated": (pa.int64(), "peak bytes that rank 0 allocated in the step; missing without a GPU"),
    "memory_reserved": (pa.int64(), "peak bytes that rank 0's allocator held in the step"),
    "validation_loss": (pa.float64(), "held-out loss after the step, nats per token; missing between"),
    "batch_hash": (pa.int64(), "hash of rank 0's micro-batches: equal in every run of a pair"),
    "utc": (pa.timestamp("ms", tz="UTC"), "when the step was recorded, UTC"),
}
FLOATS = tuple(name for name, (kind, _) in STEP_COLUMNS.items() if pa.types.is_floating(kind))

RUN_COLUMNS: dict[str, tuple[pa.DataType, str]] = {
    "run_id": (pa.string(), "readable name and hash of everything that can change the run's numbers"),
    "study": (pa.string(), "study that first asked for the run"),
    "model": (pa.string(), "model file of experiments/models"),
    "variant": (pa.string(), "canonical name of the variant"),
    "release": (pa.string(), "DeepSpeed release that the variant was built from"),
    "nodes": (pa.int32(), "nodes"),
    "ranks_per_node": (pa.int32(), "ranks of each node"),
    "hpz": (pa.int32(), "ranks of a secondary partition; 1: hpZ off"),
    "seed": (pa.int64(), "seed of weights, data order and poison"),
    "device": (pa.string(), "cpu, virtual or cuda"),
    "policy": (pa.string(), "how the virtual device orders what nothing orders; native elsewhere"),
    "poison": (pa.string(), "what fresh memory of the virtual device holds"),
    "evidence": (pa.string(), "evidence level of every number of the run"),
    "steps_planned": (pa.int32(), "optimizer steps asked for"),
    "gradient_accumulation": (pa.int32(), "micro-batches of a step"),
    "activation_checkpointing": (pa.bool_(), "whether the backward pass recomputes activations"),
    "state": (pa.string(), "how far the run came: done only with its final record"),
    "reason": (pa.string(), "one sentence where the run did not end well"),
    "attempts": (pa.int32(), "times the run was launched"),
    "started_utc": (pa.string(), "start of the last attempt, UTC"),
    "ended_utc": (pa.string(), "end of the last attempt, UTC"),
    "steps_recorded": (pa.int32(), "rows in the steps table"),
    "skipped_steps": (pa.int32(), "optimizer steps skipped, from the final record"),
    "accuracy": (pa.float64(), "finetune: share of questions answered rightly"),
    "shards_sha256": (pa.string(), "hash over every rank's final parameter shards"),
    "batches_sha256": (
        pa.string(),
        "hash over every rank's batches of all steps: equal in every run of a pair",
    ),
    "duplicate_steps": (pa.int32(), "recorded steps that a later line of the same step replaced"),
    "unread_lines": (pa.int32(), "lines of steps.jsonl that could not be read"),
    "record": (pa.string(), "run.json as recorded, JSON"),
    "status": (pa.string(), "status.json as recorded, JSON"),
    "races": (pa.string(), "races.json where there is one, JSON"),
}


def _schema(columns: dict[str, tuple[pa.DataType, str]]) -> pa.Schema:
    return pa.schema([pa.field(name, kind, metadata={"is": text}) for name, (kind, text) in columns.items()])


STEPS = _schema({"run_id": (pa.string(), "run that the step belongs to"), **STEP_COLUMNS})
RUNS = _schema(RUN_COLUMNS)
