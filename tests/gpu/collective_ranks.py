"""One rank that makes every collective of DeepSpeed's backend on one device and checks what came out.

`python -m tests.gpu.collective_ranks cpu|cuda`, with RANK and its kin in the environment; prints `ok` and the calls.
"""

from __future__ import annotations

import os
import sys

import torch

from harness.device.gloo import GlooBackend


def check(backend: GlooBackend, device: torch.device, rank: int, world: int) -> list[str]:
    """Each collective on tensors of `device`: (rank + 1) times ones goes in. Returns the names of what was checked."""
    size, total = 6, sum(range(1, world + 1))

    def mine(n: int = size) -> torch.Tensor:
        return torch.full((n,), float(rank + 1), dtype=torch.bfloat16, device=device)

    def equal(name: str, found: torch.Tensor, expected: list[float]) -> None:
        assert found.tolist() == expected, f"{name}: {found.tolist()}, not {expected}"
        names.append(name)

    names: list[str] = []
    gathered = [float(r + 1) for r in range(world) for _ in range(size)]
    x = mine()
    backend.all_reduce(x)
    equal("all_reduce", x, [float(total)] * size)
    x = mine()
    backend.reduce(x, 0)
    if rank == 0:
        equal("reduce", x, [float(total)] * size)
    x = mine()
    backend.broadcast(x, 1)
    equal("broadcast", x, [2.0] * size)
    out = torch.empty(world * size, dtype=torch.bfloat16, device=device)
    backend.all_gather_into_tensor(out, mine(), async_op=True).wait()
    equal("all_gather_into_tensor", out, gathered)
    parts = [torch.empty_like(mine()) for _ in range(world)]
    backend.all_gather(parts, mine())
    equal("all_gather", torch.cat(parts), gathered)
    outs = [torch.empty_like(out) for _ in range(2)]
    backend.all_gather_coalesced(outs, [mine(), 2 * mine()], async_op=True).wait()
    equal("all_gather_coalesced", torch.cat(outs), gathered + [2 * value for value in gathered])
    pair = [mine(), 2 * mine()]
    backend.all_reduce_coalesced(pair)
    equal("all_reduce_coalesced", torch.cat(pair), [float(total)] * size + [2.0 * total] * size)
    part = torch.empty_like(mine())
    backend.reduce_scatter_tensor(part, mine(world * size))
    equal("reduce_scatter_tensor", part, [float(total)] * size)
    part = torch.empty_like(mine())
    backend.reduce_scatter(part, [mine() for _ in range(world)])
    equal("reduce_scatter", part, [float(total)] * size)
    source = torch.arange(world, dtype=torch.float32, device=device) + 10 * rank
    turned = torch.empty_like(source)
    backend.all_to_all_single(turned, source)
    equal("all_to_all_single", turned, [float(10 * r + rank) for r in range(world)])
    parts = [torch.empty_like(mine()) for _ in range(world)]
    backend.gather(mine(), parts if rank == 0 else None, dst=0)
    if rank == 0:
        equal("gather", torch.cat(parts), gathered)
    part = torch.empty_like(mine())
    backend.scatter(
        part, list(torch.tensor(gathered, dtype=part.dtype, device=device).split(size)) if rank == 0 else None
    )
    equal("scatter", part, mine().tolist())
    return names


def main() -> None:
    rank, world, kind = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), sys.argv[1]
    from harness.device import open_device

    device = open_device(kind)
    device.rendezvous()
    device.connect()
    from deepspeed.comm import comm

    assert device.backend == "gloo", f"{world} ranks with a GPU each do not speak through gloo"
    backend = comm.cdb if isinstance(comm.cdb, GlooBackend) else GlooBackend(comm.cdb)
    group = backend.new_group([0, 1])  # not every rank is in it, as with hpZ's groups
    names = check(backend, device.torch_device, rank, world)
    if rank < 2:
        x = torch.ones(2, device=device.torch_device)
        backend.all_reduce(x, group=group)
        assert x.tolist() == [2.0, 2.0]
    backend.barrier()
    print("ok", *names, flush=True)
    torch.distributed.destroy_process_group()
    os._exit(0)


if __name__ == "__main__":
    main()
