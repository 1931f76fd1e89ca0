"""The network baseline: all-gather bus bandwidth inside a node and between nodes, measured in the job's allocation.

`srun … python -m harness.launch.slurm.bandwidth FILE BACKEND`, with MASTER_ADDR and MASTER_PORT set. Bus bandwidth as
in NVIDIA's nccl-tests (doc/PERFORMANCE.md): gathered bytes / time × (ranks − 1) / ranks. Beside it, what tells one node
from another: bus bandwidth inside each, and how fast nodes send to each other, in pairs, one direction at a time.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.launch.slurm.rank import Place
from harness.system.node import node_name
from harness.system.utc import utc_now
from harness.system.whole_file import write_json

if TYPE_CHECKING:
    import torch

SIZES = (64 << 10, 1 << 20, 8 << 20, 64 << 20, 256 << 20)  # gathered bytes
REPEATS = 3
TURNS = 3  # each node meets as many others
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
    dist.all_gather_object(names, node_name())
    device = torch.device("cuda" if backend == "nccl" else "cpu")
    rows = [
        {"scope": scope, **row} for scope, group in groups(place).items() for row in measure(group, device)
    ]
    nodes = [str(name) for name in names[:: place.local_size]]
    inside = slowest_of_each([row for row in rows if row["scope"] == "inside node"], place, nodes)
    transfers = measure_transfers(place, nodes, device)
    for row in rows:
        del row["own_gbit_s"]
    content = {"schema_version": 1, "utc": utc_now(), "backend": backend, "ranks": names, "rows": rows}
    if place.rank == 0:
        write_json(file, {**content, "inside": inside, "transfers": transfers})
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
        own = statistics.median([timed_gather(full, shard, group, device) for _ in range(REPEATS + 1)][1:])
        seconds = slowest(own, device)
        gathered = full.numel() * 2
        rows.append(
            {
                "bytes": gathered,
                "ranks": ranks,
                "seconds": seconds,
                "bus_gbit_s": gathered * 8e-9 / seconds * (ranks - 1) / ranks,
                "own_gbit_s": gathered * 8e-9 / own * (ranks - 1) / ranks,
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


def slowest(seconds: float, device: torch.device) -> float:
    """The greatest over all ranks: the same number everywhere."""
    import torch
    import torch.distributed as dist

    agreed = torch.tensor(seconds, dtype=torch.float64, device=device)
    dist.all_reduce(agreed, op=dist.ReduceOp.MAX)
    return float(agreed)


def slowest_of_each(rows: list[dict[str, Any]], place: Place, nodes: list[str]) -> dict[str, float]:
    """Bus bandwidth inside each node by its slowest rank, Gbit/s, at the largest size; empty with one rank a node."""
    import torch.distributed as dist

    if not rows:
        return {}
    told: list[float] = [0.0] * place.world_size
    dist.all_gather_object(told, rows[-1]["own_gbit_s"])
    size = place.local_size
    return {node: min(told[index * size : (index + 1) * size]) for index, node in enumerate(nodes)}


def measure_transfers(place: Place, nodes: list[str], device: torch.device) -> list[dict[str, Any]]:
    """How fast nodes send to each other, all ranks of a node at once, in Gbit/s, by the receiver's clock.

    In a turn no node takes part twice, neither as sender nor as receiver, so that a slow one slows no other's number.
    A pair goes on to larger sizes for itself until one takes longer than LONGEST_SECONDS.
    """
    return [
        {"from": nodes[sender], "to": nodes[receiver], "gbit_s": rate}
        for pairs in turns_of_pairs(len(nodes))
        for turn in (pairs, [(b, a) for a, b in pairs])
        for (sender, receiver), rate in zip(turn, measure_turn(place, turn, device), strict=True)
    ]


def turns_of_pairs(nodes: int) -> list[list[tuple[int, int]]]:
    """A round-robin tournament (circle method), TURNS of its rounds at most: each round has every node once or not."""
    places = [*range(nodes), *([None] if nodes % 2 else [])]
    turns = []
    for _ in range(min(len(places) - 1, TURNS)):
        half = len(places) // 2
        met = zip(places[:half], reversed(places[half:]), strict=True)
        turns.append([(a, b) for a, b in met if a is not None and b is not None])
        places = [places[0], places[-1], *places[1:-1]]
    return turns


def measure_turn(place: Place, turn: list[tuple[int, int]], device: torch.device) -> list[float]:
    """Gbit/s of each (sender, receiver) that are at work at the same time."""
    import torch.distributed as dist

    rates, going = [0.0] * len(turn), set(range(len(turn)))
    for nbytes in SIZES[:-1]:
        own = next((i for i in going if place.node in turn[i]), None)
        seconds = 0.0
        if own is not None:
            seconds = min(timed_transfer(place, turn[own], nbytes, device) for _ in range(REPEATS))
        told: list[tuple[int | None, float]] = [(None, 0.0)] * place.world_size
        dist.all_gather_object(
            told, (own, seconds if own is not None and place.node == turn[own][1] else 0.0)
        )
        for pair in list(going):
            longest = max(seconds for its, seconds in told if its == pair)
            rates[pair] = nbytes * place.local_size * 8e-9 / longest
            if longest > LONGEST_SECONDS:
                going.remove(pair)
    return rates


def timed_transfer(place: Place, pair: tuple[int, int], nbytes: int, device: torch.device) -> float:
    """Seconds until what the twin on the other node sends has arrived; the sender's own number means nothing."""
    import torch
    import torch.distributed as dist

    data = torch.empty(nbytes // 2, dtype=torch.bfloat16, device=device)
    sender, receiver = (node * place.local_size + place.local_rank for node in pair)
    ready = torch.zeros(1, device=device)
    if place.node == pair[1]:
        dist.send(ready, sender)
        started = time.perf_counter()
        dist.recv(data, sender)
    else:
        dist.recv(ready, receiver)
        if device.type == "cuda":
            torch.cuda.synchronize()
        started = time.perf_counter()
        dist.send(data, receiver)
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
