"""The network baseline: all-gather bus bandwidth inside a node and between nodes, measured in the job's allocation.

`srun … python -m harness.launch.slurm.bandwidth FILE BACKEND`, with MASTER_ADDR and MASTER_PORT set. Bus bandwidth as
in NVIDIA's nccl-tests (doc/PERFORMANCE.md): gathered bytes / time × (ranks − 1) / ranks.
"""

from __future__ import annotations

import os
import platform
import statistics
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.launch.slurm.rank import Place
from harness.system.utc import utc_now
from harness.system.whole_file import write_json

if TYPE_CHECKING:
    import torch

SIZES = (64 << 10, 1 << 20, 8 << 20, 64 << 20, 256 << 20)  # gathered bytes
REPEATS = 3
LONGEST_SECONDS = 0.1  # the next size is left out once one takes longer than this


def main() -> None:
    import torch
    import torch.distributed as dist

    file, backend = Path(sys.argv[1]), sys.argv[2]
    place = Place.from_slurm(os.environ)
    os.environ.update(place.variables())
    torch.set_num_threads(1)
    if backend == "nccl":
        torch.cuda.set_device(place.local_rank)
    dist.init_process_group(backend)
    names: list[str | None] = [None] * place.world_size
    dist.all_gather_object(names, platform.node())
    rows = [
        {"scope": scope, **row}
        for scope, group in groups(place).items()
        for row in measure(group, torch.device("cuda" if backend == "nccl" else "cpu"))
    ]
    if place.rank == 0:
        write_json(
            file, {"schema_version": 1, "utc": utc_now(), "backend": backend, "ranks": names, "rows": rows}
        )
    dist.barrier()
    sys.stdout.flush()
    os._exit(0)


def groups(place: Place) -> dict[str, Any]:
    """Process groups by scope; this rank's own one of each. A scope of one rank is left out."""
    import torch.distributed as dist

    size, nodes = place.local_size, place.world_size // place.local_size
    inside = [list(range(node * size, (node + 1) * size)) for node in range(nodes)]
    between = [list(range(local, place.world_size, size)) for local in range(size)]
    found: dict[str, Any] = {}
    for scope, members in (("inside node", inside), ("between nodes", between)):
        for ranks in members:
            group = dist.new_group(ranks)
            if place.rank in ranks and len(ranks) > 1:
                found[scope] = group
    return found | ({"all ranks": dist.group.WORLD} if nodes > 1 and size > 1 else {})


def measure(group: Any, device: torch.device) -> list[dict[str, Any]]:
    """Median time of an all-gather at each size; all groups of a scope run at once, as they do in training."""
    import torch
    import torch.distributed as dist

    ranks, rows = dist.get_world_size(group), []
    for nbytes in SIZES:
        shard = torch.zeros(nbytes // ranks // 2, dtype=torch.bfloat16, device=device)
        full = torch.empty(shard.numel() * ranks, dtype=torch.bfloat16, device=device)
        seconds = slowest([timed_gather(full, shard, group, device) for _ in range(REPEATS + 1)][1:], device)
        gathered = full.numel() * 2
        rows.append(
            {
                "bytes": gathered,
                "ranks": ranks,
                "seconds": seconds,
                "bus_gbit_s": gathered * 8e-9 / seconds * (ranks - 1) / ranks,
            }
        )
        if seconds > LONGEST_SECONDS:
            break
    return rows


def timed_gather(full: torch.Tensor, shard: torch.Tensor, group: Any, device: torch.device) -> float:
    import torch
    import torch.distributed as dist

    dist.barrier()
    started = time.perf_counter()
    dist.all_gather_into_tensor(full, shard, group=group)
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def slowest(seconds: list[float], device: torch.device) -> float:
    """The median of this rank's times, then the greatest over all ranks: the same number everywhere."""
    import torch
    import torch.distributed as dist

    agreed = torch.tensor(statistics.median(seconds), dtype=torch.float64, device=device)
    dist.all_reduce(agreed, op=dist.ReduceOp.MAX)
    return float(agreed)


if __name__ == "__main__":
    main()
