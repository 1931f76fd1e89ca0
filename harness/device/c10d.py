"""Collectives of torch.distributed on device memory, taken where all of them pass: at the operators of `c10d`.

Whoever calls them, and by whatever name (`from torch.distributed import all_reduce`, DistributedDataParallel), they are
deferred as those of deepspeed.comm are. A message between two ranks runs, as with NCCL, on a stream of that pair.
"""

from __future__ import annotations

import sys
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch.utils.weak import TensorWeakRef

from harness.device.collectives import Backend
from harness.device.observe import Collective
from harness.device.torch_private import TorchWork, at_end_of_pass, current_node, unboxed_group, unboxed_work

Tensor = torch.Tensor


class Shape(NamedTuple):
    """Which arguments a c10d operator reads and writes, by position; the payload is what `Collective.nbytes` counts."""

    op: str
    writes: tuple[int, ...]
    reads: tuple[int, ...]
    payload: int


SHAPES = {
    "allreduce_": Shape("all_reduce", (0,), (0,), 0),
    "allreduce_coalesced_": Shape("all_reduce", (0,), (0,), 0),
    "allgather_": Shape("all_gather", (0,), (1,), 0),
    "_allgather_base_": Shape("all_gather", (0,), (1,), 0),
    "allgather_coalesced_": Shape("all_gather", (0,), (1,), 0),
    "allgather_into_tensor_coalesced_": Shape("all_gather", (0,), (1,), 0),
    "reduce_scatter_": Shape("reduce_scatter", (0,), (1,), 1),
    "_reduce_scatter_base_": Shape("reduce_scatter", (0,), (1,), 1),
    "reduce_scatter_tensor_coalesced_": Shape("reduce_scatter", (0,), (1,), 1),
    "broadcast_": Shape("broadcast", (0,), (), 0),
    "reduce_": Shape("reduce", (0,), (0,), 0),
    "gather_": Shape("gather", (0,), (1,), 1),
    "scatter_": Shape("scatter", (0,), (1,), 0),
    "alltoall_": Shape("all_to_all", (0,), (1,), 1),
    "alltoall_base_": Shape("all_to_all", (0,), (1,), 1),
    "send": Shape("send_recv", (), (0,), 0),
    "recv_": Shape("send_recv", (0,), (), 0),
}
HOST_CALLS = ("barrier", "monitored_barrier_")


class StreamWork(TorchWork):
    """A deferred call as C++ and torch.distributed hold it.

    Until somebody waits for it it keeps the memory of its results, as ProcessGroupNCCL does (PyTorch 2.7 and later).
    """

    def __init__(self, deferred: Any, results: list[Tensor]) -> None:
        super().__init__()
        self.deferred, self.kept = deferred, results
        self.results = [TensorWeakRef(t) for t in results]

    def wait(self, timeout: object = None) -> bool:
        """The current stream waits; the host does not."""
        self.deferred.wait()
        self.kept = []
        return True

    def synchronize(self) -> None:
        self.wait()

    def is_completed(self) -> bool:
        return bool(self.deferred.is_completed())

    def is_success(self) -> bool:
        return True

    def exception(self) -> None:
        return None

    def result(self) -> list[Tensor]:
        """Those that the program still holds."""
        return [t for result in self.results if (t := result()) is not None]

    def get_future(self) -> Any:
        """Torch's reducer asks and waits in C++, unseen: the wait is put where its own is, at the end of the pass.

        It asks when a bucket is on its way, and queues what it does at the end after the last one.
        """
        if "get_future" not in sys._getframe(1).f_code.co_names:
            if current_node() is None:
                self.wait()
            else:
                at_end_of_pass(self.wait)
        return StreamFuture(self)


class StreamFuture(torch.futures.Future):  # type: ignore[type-arg]
    """Its value is there at once, as a handle of work to come; who waits for it lets the current stream wait."""

    def __init__(self, work: StreamWork) -> None:
        super().__init__()
        self.work = work
        self.set_result(work.result())

    def wait(self) -> Any:
        self.work.wait()
        return super().wait()

    def then(self, callback: Any) -> Any:
        self.work.wait()
        return super().then(callback)


def call_of(
    backend: Backend, func: Any, name: str, args: tuple[Any, ...]
) -> tuple[Collective, Any, Any, Any]:
    """A c10d operator's call as the device takes calls: what it is, the tensors it reads and writes, how to make it."""
    shape = SHAPES[name]
    group = unboxed_group(next(value for value in args if isinstance(value, torch.ScriptObject)))
    number, ranks = backend._group(group)
    reads = [t for position in shape.reads for t in flat(args[position])]
    writes = [t for position in shape.writes for t in flat(args[position])]
    if name == "broadcast_" and dist.get_rank(group) == args[2]:
        reads, writes = writes, []
    if shape.op == "send_recv":
        pair = (dist.get_rank(), ranks[args[2]])
        ranks = pair if name == "send" else pair[::-1]
    nbytes = sum(t.numel() * t.element_size() for t in flat(args[shape.payload]))

    def call(now_read: list[Tensor], now_written: list[Tensor], later: bool) -> Any:
        stand_in = {id(t): new for t, new in zip(reads, now_read, strict=True)}
        stand_in |= {id(t): new for t, new in zip(writes, now_written, strict=True)}
        out = func(*(replaced(value, stand_in) for value in args))
        return unboxed_work(out[-1] if isinstance(out, tuple) else out)

    return Collective(shape.op, ranks, nbytes, number), reads, writes, call


def answer(name: str, func: Any, args: tuple[Any, ...], work: StreamWork) -> Any:
    """What the operator returns: the work and, where it says so, the tensors before it."""
    return work.boxed() if len(func._schema.returns) == 1 else (args[0], work.boxed())


def flat(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    return [t for item in value for t in flat(item)] if isinstance(value, list | tuple) else []


def replaced(value: Any, stand_in: dict[int, Tensor]) -> Any:
    if isinstance(value, list | tuple):
        return [replaced(item, stand_in) for item in value]
    return stand_in.get(id(value), value)
