"""A loop whose whole forward pass runs on a stream of its own, rightly ordered before and after."""

import deepspeed
import torch
from deepspeed.accelerator import get_accelerator

CONFIG = {
    "train_micro_batch_size_per_gpu": 2,
    "zero_allow_untested_optimizer": True,
    "bf16": {"enabled": True},
    "zero_optimization": {
        "stage": 3,
        "overlap_comm": True,
        "contiguous_gradients": True,
        "stage3_param_persistence_threshold": 0,
        "stage3_max_reuse_distance": 0,
        "stage3_max_live_parameters": 3000,
        "stage3_prefetch_bucket_size": 1000,
        "reduce_bucket_size": 4000,
    },
}

torch.manual_seed(0)
device = get_accelerator().current_device_name()
model = torch.nn.Sequential(*(torch.nn.Linear(32, 32) for _ in range(4)))
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
engine, optimizer, _, _ = deepspeed.initialize(model=model, optimizer=optimizer, config=CONFIG)
side = get_accelerator().Stream()
for _ in range(2):
    x = torch.randn(2, 32, dtype=torch.bfloat16).to(device)
    side.wait_stream(get_accelerator().current_stream())
    with get_accelerator().stream(side):
        loss = engine(x).float().pow(2).mean()
    get_accelerator().current_stream().wait_stream(side)
    engine.backward(loss)
    engine.step()
print("final loss", loss.item())
