"""A user's own DeepSpeed training loop, as on a GPU: it knows nothing of this project."""

import argparse
import json
import os
import tempfile
from pathlib import Path

import deepspeed
import torch
from deepspeed.accelerator import get_accelerator

parser = argparse.ArgumentParser()
parser.add_argument("--steps", type=int, default=2)
parser.add_argument("--deepspeed_config", default=None)
parser.add_argument(
    "--checkpoint", action="store_true", help="save, train on, load what was saved, train again"
)
args = parser.parse_args()

FOLDER = f"{tempfile.gettempdir()}/bare-loop-{os.environ['MASTER_PORT']}"  # the same on all ranks
CONFIG = {
    "train_micro_batch_size_per_gpu": 2,
    "zero_allow_untested_optimizer": True,
    "bf16": {"enabled": True},
    "zero_optimization": {
        "stage": 3,
        "overlap_comm": True,
        "contiguous_gradients": True,
        "zero_hpz_partition_size": 2,
        "stage3_param_persistence_threshold": 0,
        "stage3_max_reuse_distance": 0,
        "stage3_max_live_parameters": 3000,
        "stage3_prefetch_bucket_size": 1000,
        "reduce_bucket_size": 4000,
    },
    "timers": {"throughput": {"enabled": False}},
}

torch.manual_seed(0)
device = get_accelerator().current_device_name()
model = torch.nn.Sequential(*(torch.nn.Linear(32, 32) for _ in range(4)))
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
engine, optimizer, _, _ = deepspeed.initialize(
    model=model,
    optimizer=optimizer,
    config=json.loads(Path(args.deepspeed_config).read_text()) if args.deepspeed_config else CONFIG,
)
for phase in ("train", "save", "train", "load", "train") if args.checkpoint else ("train",):
    if phase == "save":
        engine.save_checkpoint(FOLDER)
    elif phase == "load":
        engine.load_checkpoint(FOLDER)
    else:
        for _ in range(args.steps):
            batch = get_accelerator().pin_memory(torch.randn(2, 32, dtype=torch.bfloat16))
            x = batch.to(device, non_blocking=True)
            loss = engine(x).float().pow(2).mean()
            engine.backward(loss)
            engine.step()
print("final loss", loss.item())
