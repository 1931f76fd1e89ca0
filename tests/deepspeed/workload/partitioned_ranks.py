"""`python -m tests.deepspeed.workload.partitioned_ranks RUN_JSON...`: each run built as full-size models are on GPUs.

The model is a toy and the device plain CPU; only the way in which the engine is built is that of `cuda`. Prints one
JSON line per rank and run.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch

import harness.workload.engine
from harness.device import open_device, step_traffic
from harness.study import Run
from harness.workload.engine import build_engine
from harness.workload.rank import Rank
from harness.workload.train import import_everything, open_run_batches
from tests.deepspeed.device.virtual_ranks import fork_ranks

STEPS = 3


def be_rank(name: str, run: Run) -> None:
    import deepspeed

    device = open_device("cpu")
    deepspeed.init_distributed(dist_backend=device.backend, verbose=False)
    device.connect()
    held: list[int] = []
    harness.workload.engine.build_model = watched(harness.workload.engine.build_model, held)  # type: ignore[attr-defined]
    device.kind = "cuda"
    engine = build_engine(run, device)
    weights = whole_weights(engine.module)
    batches = open_run_batches(run, Rank.from_environment())
    losses = []
    for step in range(STEPS):
        loss = engine(**batches.at(step, 0)).loss
        engine.backward(loss)
        engine.step()
        losses.append(loss.item())
    gathers = step_traffic(device.counters(), run.shape).secondary_gathers
    line = {"run": name, "held": sum(held), "losses": losses, "secondary_gathers": gathers, **weights}
    os.write(1, (json.dumps(line) + "\n").encode())
    torch.distributed.barrier()


def watched(build: Any, held: list[int]) -> Any:
    """`build_model`, noting how many elements of the finished model this rank holds."""

    def build_and_look(*args: Any, **options: Any) -> Any:
        model = build(*args, **options)
        held.extend(p.numel() + p.ds_tensor.numel() for p in model.parameters())
        return model

    return build_and_look


def whole_weights(module: torch.nn.Module) -> dict[str, Any]:
    """Hash of all weights as this rank sees them, and the standard deviation of each."""
    import deepspeed

    digest, spread = hashlib.sha256(), {}
    for name, parameter in module.named_parameters():
        with deepspeed.zero.GatheredParameters(parameter):
            digest.update(parameter.detach().view(torch.uint8).numpy().tobytes())
            spread[name] = parameter.float().std().item()
    return {"weights": digest.hexdigest(), "spread": spread}


def main() -> None:
    harness.workload.engine.WHOLE_PARAMETERS = 0
    import_everything("cpu")
    for file in map(Path, sys.argv[1:]):
        run = Run.model_validate(json.loads(file.read_text()))
        fork_ranks(run.shape.world_size, partial(be_rank, file.stem, run))


if __name__ == "__main__":
    main()
