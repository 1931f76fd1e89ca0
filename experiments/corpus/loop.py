"""A training loop on DeepSpeed as people write it: a small model, random batches, an optimizer.

`deepspeed experiments/corpus/loop.py --steps 3 --config '{"zero_optimization": {"stage": 2}}'`
"""

import argparse
import json

import deepspeed
import torch
from deepspeed.accelerator import get_accelerator

parser = argparse.ArgumentParser()
parser.add_argument("--local_rank", type=int, default=0)
parser.add_argument("--steps", type=int, default=2)
parser.add_argument("--width", type=int, default=32)
parser.add_argument("--config", type=json.loads, default={}, help="DeepSpeed's keys, as JSON")
args = parser.parse_args()

torch.manual_seed(0)
device = get_accelerator().current_device_name()
model = torch.nn.Sequential(*(torch.nn.Linear(args.width, args.width) for _ in range(4)))
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
config = {"train_micro_batch_size_per_gpu": 2, "zero_allow_untested_optimizer": True, **args.config}
engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=config)
dtype = next(model.parameters()).dtype
for _ in range(args.steps * engine.gradient_accumulation_steps()):
    batch = get_accelerator().pin_memory(torch.randn(2, args.width, dtype=dtype))
    loss = engine(batch.to(device, non_blocking=True)).float().pow(2).mean()  # a copy that waits hides faults
    engine.backward(loss)
    engine.step()
print("final loss", loss.item())
