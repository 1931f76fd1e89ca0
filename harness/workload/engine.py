"""DeepSpeed's engine as a run asks for it, and which evidence it may give."""

from __future__ import annotations

import math
from typing import Any

import torch
from pydantic import ValidationError

from harness.device import Device
from harness.study import ModelFile, Run, Training, check_attention
from harness.system.errors import HarnessError
from harness.workload.models import build_model

WHOLE_PARAMETERS = 100_000_000  # a larger model on a GPU is never whole on one rank


def check_evidence(run: Run, backend: str) -> None:
    """Refuse what would be recorded at a level of evidence that it does not have. Raises HarnessError."""
    if run.evidence == "multi-node" and backend != "nccl":
        raise HarnessError(
            f"{run.run_id}: its ranks share GPUs here, which is no multi-node evidence; give each rank a GPU"
        )


def build_engine(run: Run, device: Device) -> Any:
    """The DeepSpeed engine of a run; a full-size model on a GPU is partitioned while it is built.

    Every other model starts whole on the host, with the same weights on every device.
    """
    import deepspeed

    training, file = run.training, ModelFile.model_validate(run.model_spec)
    check_attention(training)
    partitioned = device.kind == "cuda" and file.parameters > WHOLE_PARAMETERS
    model = build_model(
        file,
        seed=run.seed,
        dtype="fp32",  # DeepSpeed itself casts, and keeps the masters in single precision
        attention=str(training.attention),
        activation_checkpointing=training.activation_checkpointing,
        checkpoint=training.checkpoint,
        # Partitioned models are not moved by DeepSpeed: what is not a parameter must be made on the device.
        device=str(device.torch_device) if partitioned else "cpu",
        partitioned_by=run.deepspeed if partitioned else None,
    )
    optimizer = build_optimizer(model, training)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate_at(step, training))
    try:
        engine, *_ = deepspeed.initialize(
            model=model, optimizer=optimizer, lr_scheduler=schedule, config=dict(run.deepspeed)
        )
    except ValidationError as error:  # of DeepSpeed's own models of its configuration
        raise HarnessError(refused_key(error, deepspeed.__version__)) from error
    if training.compile:
        engine.compile()
    engine.train()
    if partitioned:
        forget_secondary_partitions(engine)
    device.synchronize()
    device.use_policy()
    return engine


def refused_key(error: ValidationError, release: str) -> str:
    """What DeepSpeed does not take of its JSON, as a sentence with the key."""
    first = error.errors()[0]
    section = "zero_optimization." if "Zero" in error.title else ""
    key = ".".join(str(part) for part in first["loc"])
    given = "" if first["type"] == "extra_forbidden" else f" (given: {first['input']!r})"
    return f"deepspeed.{section}{key}: DeepSpeed {release} refuses it: {first['msg']}{given}"


def forget_secondary_partitions(engine: Any) -> None:
    """Let the next forward pass make hpZ's secondary partitions anew, as every step does.

    Before DeepSpeed 0.18.3 weights that were loaded after partitioning did not reach them (DeepSpeed #7606): a known
    fault, and not one that a study of order or of missing elements may meet.
    """
    engine.optimizer.invalidate_secondary_tensor()


def build_optimizer(model: torch.nn.Module, training: Training) -> torch.optim.Optimizer:
    """The AdamW that the run asks for: torch's, plain or fused, or one of DeepSpeed's. Raises HarnessError.

    Decay is decoupled in each of them (Loshchilov and Hutter, arXiv 1711.05101), and spares norms and biases, as
    pretraining does; where there is none, all parameters are one group.
    """
    settings: dict[str, Any] = {"lr": training.learning_rate, "betas": training.betas, "eps": training.eps}
    groups = parameter_groups(model, training.weight_decay)
    if training.optimizer in ("adamw", "adamw-fused"):
        # Plain: one parameter at a time, as the shards of a partition differ in dtype and device.
        how: dict[str, Any] = {"fused": True} if training.optimizer == "adamw-fused" else {"foreach": False}
        return torch.optim.AdamW(groups, weight_decay=training.weight_decay, **settings, **how)
    from deepspeed.ops.adam import DeepSpeedCPUAdam, FusedAdam

    build = FusedAdam if training.optimizer == "deepspeed-fused-adam" else DeepSpeedCPUAdam
    kind = {"adam_w_mode": True} if build is FusedAdam else {"adamw_mode": True}
    try:
        return build(groups, weight_decay=training.weight_decay, **settings, **kind)  # type: ignore[no-any-return]
    except Exception as error:  # DeepSpeed builds the op here, and every compiler fails in its own way
        raise HarnessError(
            f"training.optimizer: DeepSpeed cannot build {training.optimizer!r} here ({str(error).splitlines()[0]}); "
            "install ninja and a compiler for it, or use adamw-fused"
        ) from error


def parameter_groups(model: torch.nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """All parameters as one group where nothing decays; else matrices, and apart from them what has one dimension."""
    parameters = list(model.parameters())
    if not weight_decay:
        return [{"params": parameters}]
    # Of a parameter that is partitioned already, ZeRO-3 keeps the shape elsewhere.
    flat = {id(p) for p in parameters if len(getattr(p, "ds_shape", p.shape)) < 2}
    groups = [
        {"params": [p for p in parameters if id(p) not in flat], "weight_decay": weight_decay},
        {"params": [p for p in parameters if id(p) in flat], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def rate_at(step: int, training: Training) -> float:
    """A step's learning rate as a share of the peak: linear warm-up, then constant or a cosine to the last step."""
    if step < training.warmup_steps:
        return (step + 1) / (training.warmup_steps + 1)
    if training.schedule == "constant":
        return 1.0
    last = max(training.steps - 1 - training.warmup_steps, 1)
    share = min((step - training.warmup_steps) / last, 1.0)
    low = training.final_learning_rate
    return low + (1 - low) * 0.5 * (1 + math.cos(math.pi * share))
