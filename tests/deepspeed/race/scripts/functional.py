"""Functional collectives give what they should, and a model of DTensors computes what the same model does whole."""

import os

import torch
import torch.distributed as dist
import torch.distributed._functional_collectives as functional
from torch.distributed.tensor import distribute_tensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.distributed.tensor.placement_types import Replicate, Shard

torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
mesh = dist.init_device_mesh("cuda", (2,))
rank, group = dist.get_rank(), dist.group.WORLD

mine = torch.tensor([1.0, 2.0], device="cuda") + 10 * rank
assert functional.all_reduce(mine, "sum", group).tolist() == [12, 14]
assert functional.all_gather_tensor(mine, 0, group).tolist() == [1, 2, 11, 12]
assert functional.reduce_scatter_tensor(mine, "sum", 0, group).tolist() == [[12], [14]][rank]
assert functional.all_to_all_single(mine, [1, 1], [1, 1], group).tolist() == [[1, 11], [2, 12]][rank]
assert functional.broadcast(mine, 1, group).tolist() == [11, 12]

whole = torch.arange(16.0, device="cuda").reshape(4, 4)
rows = distribute_tensor(whole, mesh, [Shard(0)])
assert torch.equal(rows.redistribute(mesh, [Shard(1)]).to_local(), whole[:, 2 * rank : 2 * rank + 2])
assert torch.equal(rows.redistribute(mesh, [Replicate()]).to_local(), whole)

half = rows.detach().requires_grad_()  # its gradient is cast while a reduction is still on its way
columns = distribute_tensor(torch.eye(4, device="cuda", dtype=torch.bfloat16), mesh, [Shard(1)])
whole_half = half.to(torch.bfloat16).redistribute(mesh, [Replicate()], async_op=True)
(whole_half @ columns).float().sum().backward()
assert half.grad.to_local().is_cuda
assert torch.equal(half.grad.to_local(), torch.ones(2, 4, device="cuda"))

heads = torch.randn(
    3, 2, 4, 8, 8, generator=torch.Generator().manual_seed(0)
).cuda()  # of query, key and value
q, k, v = (distribute_tensor(one, mesh, [Shard(1)]).requires_grad_() for one in heads)
attention = torch.nn.functional.scaled_dot_product_attention
found = attention(q, k, v, is_causal=True)
torch.testing.assert_close(found.full_tensor(), attention(*heads, is_causal=True))
found.square().mean().backward()
assert q.grad.placements == (Shard(1),)

torch.manual_seed(0)
layers = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.GELU(), torch.nn.Linear(16, 8)).cuda()
batch = torch.randn(4, 8, device="cuda")
expected = layers(batch).detach()
parallel = parallelize_module(layers, mesh, {"0": ColwiseParallel(), "2": RowwiseParallel()})
optimizer = torch.optim.SGD(parallel.parameters(), lr=0.1)
torch.testing.assert_close(parallel(batch).detach(), expected)
for _ in range(2):
    parallel(batch).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()
