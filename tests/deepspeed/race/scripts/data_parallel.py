"""DistributedDataParallel in each of its ways; with `early`, gradients are read while they are summed up."""

import sys

import torch
import torch.distributed as dist
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn.parallel import DistributedDataParallel

dist.init_process_group("nccl")
early = sys.argv[1:] == ["early"]
for ways in (
    {},
    {"gradient_as_bucket_view": True},
    {"find_unused_parameters": True},
    {"static_graph": True},
    "hook",
):
    model = torch.nn.Sequential(*[torch.nn.Linear(16, 16) for _ in range(3)]).cuda()
    parallel = DistributedDataParallel(model, bucket_cap_mb=0.001, **({} if ways == "hook" else ways))
    if ways == "hook":
        parallel.register_comm_hook(None, allreduce_hook)
    if early:
        side = torch.cuda.Stream()
        model[0].weight.register_post_accumulate_grad_hook(
            lambda p, s=side: s.wait_stream(torch.cuda.default_stream())
        )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(3):
        parallel(torch.ones(2, 16, device="cuda")).square().mean().backward()
        if early:
            with torch.cuda.stream(side):
                model[0].weight.grad.norm()
        optimizer.step()
        optimizer.zero_grad()
