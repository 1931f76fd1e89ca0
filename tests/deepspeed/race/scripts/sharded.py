"""FSDP in either form, as PyTorch's tutorials write it; what comes after its name goes wrong on purpose."""

import os
import sys

import torch
import torch.distributed as dist
from torch.distributed.fsdp import (
    CPUOffloadPolicy,
    FullyShardedDataParallel,
    MixedPrecisionPolicy,
    fully_shard,
)
from torch.distributed.fsdp._fully_shard._fsdp_param_group import FSDPParamGroup

form, *wrong = sys.argv[1:]
torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
dist.init_process_group("nccl")
torch.manual_seed(0)
if "unordered" in wrong:  # of what frees the result of an all-gather while it may still be read
    FSDPParamGroup._wait_all_gather_streams_on_event = lambda group, event: None

layers = [torch.nn.Linear(16, 32), torch.nn.ReLU(), torch.nn.Linear(32, 16)]
if form == "fsdp":
    wrapped = [
        FullyShardedDataParallel(layer.cuda()) if list(layer.parameters()) else layer for layer in layers
    ]
    model = FullyShardedDataParallel(torch.nn.Sequential(*wrapped))
else:
    kinds = {
        "fully_shard": {},
        "hybrid": {
            "mesh": dist.init_device_mesh("cuda", (2, 2), mesh_dim_names=("replicate", "shard"))
            if form == "hybrid"
            else None,
            "offload_policy": CPUOffloadPolicy(),
            "mp_policy": MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32),
        },
    }
    model = torch.nn.Sequential(*layers)
    for module in (layers[0], layers[2], model):
        fully_shard(module, **kinds[form])

optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
side, saved = torch.cuda.Stream(), {}
for _ in range(3):
    model(torch.randn(4, 16, device="cuda")).square().mean().backward()
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()
    if "saved" in wrong:  # a checkpoint that does not wait for the step
        with torch.cuda.stream(side):
            saved = {name: p.to_local().to("cpu", non_blocking=True) for name, p in model.named_parameters()}
torch.cuda.synchronize()
