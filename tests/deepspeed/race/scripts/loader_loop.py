"""The bare loop with batches from a DataLoader that pins them."""

import deepspeed
import torch
from deepspeed.accelerator import get_accelerator

STEPS = 3
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
engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=CONFIG)
rows = torch.randn(2 * STEPS, 32, dtype=torch.bfloat16)
for batch in torch.utils.data.DataLoader(rows, batch_size=2, pin_memory=True):
    x = batch.to(device, non_blocking=True)
    loss = engine(x).float().pow(2).mean()
    engine.backward(loss)
    engine.step()
