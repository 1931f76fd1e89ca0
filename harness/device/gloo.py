"""CUDA tensors over gloo, for ranks that share a GPU: what gloo has, what it lacks, and what that means for order.

From PyTorch's ProcessGroupGloo.cpp and ProcessGroupGlooCuda.cpp:

| collective                           | gloo on CUDA tensors                     | carried here as                 |
|--------------------------------------|------------------------------------------|---------------------------------|
| all_reduce, reduce, broadcast        | yes                                      | itself                          |
| all_gather, all_gather_into_tensor   | yes (the second as the first, on chunks) | itself                          |
| reduce_scatter_tensor                | as clone, all_reduce, copy of this part  | itself                          |
| all_to_all_single, gather, scatter   | yes                                      | itself                          |
| reduce_scatter (of a list)           | not in every release                     | reduce_scatter_tensor           |
| all_gather_coalesced                 | no: it cannot coalesce                   | one all_gather_into_tensor each |
| all_reduce_coalesced                 | host memory only                         | one all_reduce each             |
| all_to_all, send, recv and their kin | host memory only, or not at all          | refused; ZeRO-3 needs none      |

**What a call does to order.** When it is issued, gloo records an event on the *current* stream, lets a stream of its
own from torch's pool wait for that event, and queues there a copy from the GPU to pinned memory. A thread of gloo's
waits for that copy on the host, exchanges the bytes, and queues the copy back on the same pool stream. `Work.wait()`
makes the *host* wait until that has been queued, and then the current stream wait for the copy back.

So a gather that DeepSpeed issues on its all-gather stream is ordered after that stream, as with NCCL, and *not* after
the compute stream: the copy into the secondary tensor and the gather that reads it are as unordered as on a cluster,
and a bit that comes out wrong was made wrong by CUDA. What differs is how easily that is seen:

- `Work.wait()` blocks the host, as NCCL's does not. While it waits, the compute stream catches up, so that the copy has
  often ended when the next gather is issued. The window is narrower than with NCCL: a natural rate of zero here says
  nothing about a cluster. That is what stalls are for (harness.device.stall).
- Reduce-scatters are awaited at once, and DeepSpeed lets its reduce stream wait for the compute stream before. In the
  backward pass the host therefore falls back to the compute stream at each of them; the forward pass has none, so that
  the turn from forward to backward is where to look.
- When its work is done gloo's thread also lets *its own* current stream, the default stream, wait for the copy back.
  The compute stream is so ordered after gathers sooner than DeepSpeed asks; never a gather after a copy, so that this
  hides no race in the direction under test.

Nothing is staged by this module: every path above is gloo's own, with its events, and adds no wait of ours. All this
was read, not measured; where there is a GPU, tests/gpu checks each collective's values, and of the gather that races
(all_gather_into_tensor) the order on streams.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from harness.device.collectives import SUM, Backend
from harness.device.errors import DeviceError

Tensor = torch.Tensor
LACKING = ("all_to_all", "send", "recv", "isend", "irecv", "batch_isend_irecv")


class AllOf:
    """Works of one coalesced call; done when all are."""

    def __init__(self, works: Sequence[Any]) -> None:
        self.works = works

    def wait(self) -> bool:
        for work in self.works:
            work.wait()
        return True

    def is_completed(self) -> bool:
        return all(work.is_completed() for work in self.works)


class GlooBackend(Backend):
    """Counts, and carries what gloo lacks by what it has."""

    def __getattr__(self, name: str) -> Any:
        inner = getattr(self._inner, name)
        if name not in LACKING:
            return inner

        def refuse_gpu(*args: Any, **kwargs: Any) -> Any:
            if any(isinstance(x, Tensor) and not x.device.type == "cpu" for x in (*args, *kwargs.values())):
                raise DeviceError(
                    f"deepspeed.comm.{name} on GPU memory: ranks that share a GPU speak through gloo, which has it for "
                    "host memory only; give each rank a GPU of its own"
                )
            return inner(*args, **kwargs)

        return refuse_gpu

    def all_gather_coalesced(
        self,
        output_tensors: list[Tensor],
        input_tensors: list[Tensor],
        group: Any = None,
        async_op: bool = False,
    ) -> Any:
        pairs = zip(output_tensors, input_tensors, strict=True)
        works = [self.all_gather_into_tensor(output, source, group, True) for output, source in pairs]
        return _awaited(works, async_op)

    def all_reduce_coalesced(
        self, tensors: list[Tensor], op: Any = SUM, group: Any = None, async_op: bool = False
    ) -> Any:
        return _awaited([self.all_reduce(tensor, op, group, True) for tensor in tensors], async_op)

    def reduce_scatter(
        self,
        output: Tensor,
        input_list: list[Tensor],
        op: Any = SUM,
        group: Any = None,
        async_op: bool = False,
    ) -> Any:
        """The list is put together on the current stream, whose order the collective follows."""
        source = torch.cat([tensor.reshape(-1) for tensor in input_list])
        return self.reduce_scatter_tensor(output.view(-1), source, op, group, async_op)


def _awaited(works: list[Any], async_op: bool) -> AllOf | None:
    every = AllOf(works)
    if async_op:
        return every
    every.wait()
    return None
