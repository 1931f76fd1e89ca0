"""DeepSpeed's communication backend, wrapped: every collective is counted, and on plain CPU timed."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from harness.device.observe import Collective
from harness.device.torch_private import functions_off

Tensor = torch.Tensor
Call = Callable[[list[Tensor], list[Tensor], bool], Any]
SUM = dist.ReduceOp.SUM
TIMEOUT = timedelta(seconds=120)  # after which ranks that wait for each other are told so


class Backend:
    """The interface of deepspeed.comm's backend object; what is not a collective goes to the real one unseen.

    This class counts. Subclasses say how a call on tensors is made.
    """

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self._groups: dict[Any, tuple[int, tuple[int, ...]]] = {}
        self.counted: Counter[Collective] = Counter()
        self._group(None)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def _group(self, group: Any) -> tuple[int, tuple[int, ...]]:
        """Number (in the order of first use; the world is 0) and ranks of a group."""
        group = group or dist.group.WORLD
        found = self._groups.get(group)
        if found is None:
            found = self._groups[group] = (len(self._groups), tuple(dist.get_process_group_ranks(group)))
        return found

    def new_group(self, ranks: Any) -> Any:
        return dist.new_group(ranks, timeout=TIMEOUT)

    def _collective(
        self,
        op: str,
        group: Any,
        async_op: bool,
        call: Call,
        *,
        reads: Sequence[Tensor],
        writes: Sequence[Tensor],
        payload: Sequence[Tensor],
    ) -> Any:
        """Count a call and make it: `call(reads, writes, async_op)` is the real one."""
        number, ranks = self._group(group)
        collective = Collective(op, ranks, _bytes(payload), number)
        self.counted[collective] += 1
        return self._perform(collective, list(reads), list(writes), call, async_op)

    def _perform(
        self, collective: Collective, reads: list[Tensor], writes: list[Tensor], call: Call, async_op: bool
    ) -> Any:
        return call(reads, writes, async_op)

    # ---- the collectives, each as one call on what it reads and what it writes

    def all_gather_into_tensor(
        self, output_tensor: Tensor, input_tensor: Tensor, group: Any = None, async_op: bool = False
    ) -> Any:
        def call(reads: list[Tensor], writes: list[Tensor], later: bool) -> Any:
            return self._inner.all_gather_into_tensor(writes[0], reads[0], group=group, async_op=later)

        inputs, outputs = [input_tensor], [output_tensor]
        return self._collective(
            "all_gather", group, async_op, call, reads=inputs, writes=outputs, payload=outputs
        )

    all_gather_base = all_gather_into_tensor

    def all_gather(
        self, tensor_list: list[Tensor], tensor: Tensor, group: Any = None, async_op: bool = False
    ) -> Any:
        def call(reads: list[Tensor], writes: list[Tensor], later: bool) -> Any:
            return self._inner.all_gather(writes, reads[0], group=group, async_op=later)

        return self._collective(
            "all_gather", group, async_op, call, reads=[tensor], writes=tensor_list, payload=tensor_list
        )

    def all_gather_coalesced(
        self,
        output_tensors: list[Tensor],
        input_tensors: list[Tensor],
        group: Any = None,
        async_op: bool = False,
    ) -> Any:
        def call(reads: list[Tensor], writes: list[Tensor], later: bool) -> Any:
            return self._inner.all_gather_coalesced(writes, reads, group=group, async_op=later)

        inputs, outputs = input_tensors, output_tensors
        return self._collective(
            "all_gather", group, async_op, call, reads=inputs, writes=outputs, payload=outputs
        )

    def reduce_scatter_tensor(
        self,
        output_tensor: Tensor,
        input_tensor: Tensor,
        op: Any = SUM,
        group: Any = None,
        async_op: bool = False,
    ) -> Any:
        def call(reads: list[Tensor], writes: list[Tensor], later: bool) -> Any:
            return self._inner.reduce_scatter_tensor(writes[0], reads[0], op=op, group=group, async_op=later)

        inputs, outputs = [input_tensor], [output_tensor]
        return self._collective(
            "reduce_scatter", group, async_op, call, reads=inputs, writes=outputs, payload=inputs
        )

    reduce_scatter_base = reduce_scatter_tensor

    def reduce_scatter(
        self,
        output: Tensor,
        input_list: list[Tensor],
        op: Any = SUM,
        group: Any = None,
        async_op: bool = False,
    ) -> Any:
        def call(reads: list[Tensor], writes: list[Tensor], later: bool) -> Any:
            return self._inner.reduce_scatter(writes[0], reads, op=op, group=group, async_op=later)

        return self._collective(
            "reduce_scatter", group, async_op, call, reads=input_list, writes=[output], payload=input_list
        )

    def all_reduce(self, tensor: Tensor, op: Any = SUM, group: Any = None, async_op: bool = False) -> Any:
        def call(reads: list[Tensor], writes: list[Tensor], later: bool) -> Any:
            return self._inner.all_reduce(writes[0], op=op, group=group, async_op=later)

        both = [tensor]
        return self._collective("all_reduce", group, async_op, call, reads=both, writes=both, payload=both)

    def inference_all_reduce(self, tensor: Tensor, op: Any, group: Any = None) -> Any:
        self.all_reduce(tensor, op, group)
        return tensor

    def all_reduce_coalesced(
        self, tensors: list[Tensor], op: Any = SUM, group: Any = None, async_op: bool = False
    ) -> Any:
        def call(reads: list[Tensor], writes: list[Tensor], later: bool) -> Any:
            return self._inner.all_reduce_coalesced(writes, op=op, group=group, async_op=later)

        return self._collective(
            "all_reduce", group, async_op, call, reads=tensors, writes=tensors, payload=tensors
        )

    def reduce(
        self, tensor: Tensor, dst: int, op: Any = SUM, group: Any = None, async_op: bool = False
    ) -> Any:
        def call(reads: list[Tensor], writes: list[Tensor], later: bool) -> Any:
            return self._inner.reduce(writes[0], dst, op=op, group=group, async_op=later)

        both = [tensor]
        return self._collective("reduce", group, async_op, call, reads=both, writes=both, payload=both)

    def broadcast(self, tensor: Tensor, src: int, group: Any = None, async_op: bool = False) -> Any:
        def call(reads: list[Tensor], writes: list[Tensor], later: bool) -> Any:
            return self._inner.broadcast((writes or reads)[0], src, group=group, async_op=later)

        mine, both = dist.get_rank() == src, [tensor]
        reads, writes = (both, []) if mine else ([], both)
        return self._collective("broadcast", group, async_op, call, reads=reads, writes=writes, payload=both)

    def all_to_all_single(
        self,
        output: Tensor,
        input: Tensor,
        output_split_sizes: Any = None,
        input_split_sizes: Any = None,
        group: Any = None,
        async_op: bool = False,
    ) -> Any:
        splits = {"output_split_sizes": output_split_sizes, "input_split_sizes": input_split_sizes}

        def call(reads: list[Tensor], writes: list[Tensor], later: bool) -> Any:
            return self._inner.all_to_all_single(writes[0], reads[0], **splits, group=group, async_op=later)

        return self._collective(
            "all_to_all", group, async_op, call, reads=[input], writes=[output], payload=[input]
        )

    def barrier(self, *args: Any, **kwargs: Any) -> Any:
        self._before_host_call()
        return self._inner.barrier(*args, **kwargs)

    def monitored_barrier(self, *args: Any, **kwargs: Any) -> Any:
        self._before_host_call()
        return self._inner.monitored_barrier(*args, **kwargs)

    def broadcast_object_list(self, *args: Any, **kwargs: Any) -> Any:
        self._before_host_call()
        return self._inner.broadcast_object_list(*args, **kwargs)

    def all_gather_object(self, *args: Any, **kwargs: Any) -> Any:
        self._before_host_call()
        return self._inner.all_gather_object(*args, **kwargs)

    def _before_host_call(self) -> None:
        """Called before a collective that has no device tensors."""


@dataclass(frozen=True)
class HostMark:
    """A moment of the host's clock; called with an earlier one, the seconds between them."""

    seconds: float = field(default_factory=time.perf_counter)

    def __call__(self, earlier: HostMark) -> float:
        return self.seconds - earlier.seconds


class HostTimedBackend(Backend):
    """Counts, and marks when the host waits for a collective: where ranks have no device, that is when they idle.

    Nobody listens until `waited` is first called.
    """

    def __init__(self, inner: Any) -> None:
        super().__init__(inner)
        self._waits: list[tuple[HostMark, HostMark]] | None = None

    def waited(self) -> list[tuple[HostMark, HostMark]]:
        """The waits since this was last asked, each from before to after."""
        seen, self._waits = self._waits or [], []
        return seen

    def _perform(
        self, collective: Collective, reads: list[Tensor], writes: list[Tensor], call: Call, async_op: bool
    ) -> Any:
        with self.waiting():
            work = call(reads, writes, async_op)
        return TimedWork(work, self) if async_op and work is not None else work

    @contextmanager
    def waiting(self) -> Iterator[None]:
        before = HostMark()
        try:
            yield
        finally:
            if self._waits is not None:
                self._waits.append((before, HostMark()))


class TimedWork:
    """A collective under way whose `wait` is timed; in all else the real one."""

    def __init__(self, work: Any, backend: HostTimedBackend) -> None:
        self._work, self._backend = work, backend

    def __getattr__(self, name: str) -> Any:
        return getattr(self._work, name)

    def wait(self, *args: Any, **kwargs: Any) -> Any:
        with self._backend.waiting():
            return self._work.wait(*args, **kwargs)


def _bytes(tensors: Sequence[Tensor]) -> int:
    with functions_off():
        return sum(t.numel() * t.element_size() for t in tensors)
