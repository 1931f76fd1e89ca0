"""DeepSpeed's engine as a run asks for it, and which evidence it may give."""

from __future__ import annotations

from typing import Any

import torch

from harness.device import Device
from harness.study import ModelFile, Run, Training
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
    partitioned = device.kind == "cuda" and file.parameters > WHOLE_PARAMETERS
    model = build_model(
        file,
        seed=run.seed,
        dtype="fp32",  # DeepSpeed itself casts, and keeps the masters in single precision
        activation_checkpointing=training.activation_checkpointing,
        checkpoint=training.checkpoint,
        # Partitioned models are not moved by DeepSpeed: what is not a parameter must be made on the device.
        device=str(device.torch_device) if partitioned else "cpu",
        partitioned_by=run.deepspeed if partitioned else None,
    )
    optimizer = torch.optim.AdamW(
        model.parameters(),
        lr=training.learning_rate,
        betas=training.betas,
        eps=training.eps,
        weight_decay=training.weight_decay,
        foreach=False,  # the shards of a partition differ in dtype and device
    )
    warmup = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _warmup(step, training))
    engine, *_ = deepspeed.initialize(
        model=model, optimizer=optimizer, lr_scheduler=warmup, config=dict(run.deepspeed)
    )
    engine.train()
    if partitioned:
        forget_secondary_partitions(engine)
    device.synchronize()
    device.use_policy()
    return engine


def forget_secondary_partitions(engine: Any) -> None:
    """Let the next forward pass make hpZ's secondary partitions anew, as every step does.

    Before DeepSpeed 0.18.3 weights that were loaded after partitioning did not reach them (DeepSpeed #7606): a known
    fault, and not one that a study of order or of missing elements may meet.
    """
    engine.optimizer.invalidate_secondary_tensor()


def _warmup(step: int, training: Training) -> float:
    return min(1.0, (step + 1) / (training.warmup_steps + 1))
