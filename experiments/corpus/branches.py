"""A training loop whose model runs two branches on two streams, as compiled graphs do: gradients come from both.

Each stream waits for the other where it takes over, so the model itself lacks no order.
"""

import argparse
import json

import deepspeed
import torch
from deepspeed.accelerator import get_accelerator

parser = argparse.ArgumentParser()
parser.add_argument("--local_rank", type=int, default=0)
parser.add_argument("--steps", type=int, default=2)
parser.add_argument("--config", type=json.loads, default={}, help="DeepSpeed's keys, as JSON")
args = parser.parse_args()
WIDTH = 32


class Branches(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.left = torch.nn.Sequential(torch.nn.Linear(WIDTH, WIDTH), torch.nn.Linear(WIDTH, WIDTH))
        self.right = torch.nn.Sequential(torch.nn.Linear(WIDTH, WIDTH), torch.nn.Linear(WIDTH, WIDTH))
        self.side = get_accelerator().Stream()

    def forward(self, x):
        main = get_accelerator().current_stream()
        self.side.wait_stream(main)
        with get_accelerator().stream(self.side):
            left = self.left(x)
        right = self.right(x)
        main.wait_stream(self.side)
        left.record_stream(main)
        return left + right


torch.manual_seed(0)
device = get_accelerator().current_device_name()
model = Branches()
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
config = {"train_micro_batch_size_per_gpu": 2, "zero_allow_untested_optimizer": True, **args.config}
engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=config)
dtype = next(model.parameters()).dtype
for _ in range(args.steps):
    x = torch.randn(2, WIDTH, dtype=dtype).to(device)
    loss = engine(x).float().pow(2).mean()
    engine.backward(loss)
    engine.step()
print("final loss", loss.item())
