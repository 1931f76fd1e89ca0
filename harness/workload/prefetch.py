"""Batches that are ready, pinned, when their step begins: a thread prepares them while the step before is at work.

Not for the virtual device, whose schedule must not depend on a second thread.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import TYPE_CHECKING, Self

from harness.workload.batches import Batch, Batches

if TYPE_CHECKING:
    import torch


class Prefetched:
    """As `batches`, with the next micro-batches prepared ahead by one thread, which alone uses `batches`.

    `pin` puts a tensor into pinned memory, as `get_accelerator().pin_memory` does; `begin` is called first in the
    thread, as to name the GPU whose context it is to use. Whoever goes on in order finds each batch ready; any other
    place may be asked for and is prepared then. An error is raised where its batch is asked for. Used as a context:
    the thread ends with the block.
    """

    def __init__(
        self,
        batches: Batches,
        *,
        accumulation: int,
        steps: int,
        pin: Callable[[torch.Tensor], torch.Tensor] = lambda tensor: tensor,
        begin: Callable[[], None] = lambda: None,
        ahead: int = 4,
    ) -> None:
        self.batches, self.accumulation, self.pin, self.ahead = batches, accumulation, pin, ahead
        self.end = steps * accumulation  # micro-steps; nothing is prepared beyond
        self.thread = ThreadPoolExecutor(1, thread_name_prefix="batches", initializer=begin)
        self.ready: dict[int, Future[Batch]] = {}  # by micro-step

    def at(self, step: int, micro: int) -> Batch:
        """The batch of this step and micro-step, int64 (micro_batch, sequence_length). Raises what making it raised."""
        place = step * self.accumulation + micro
        wanted = range(place, max(place + 1, min(place + 1 + self.ahead, self.end)))
        for stale in [known for known in self.ready if known not in wanted]:
            self.ready.pop(stale).cancel()
        for ahead in wanted:
            if ahead not in self.ready:
                self.ready[ahead] = self.thread.submit(self._make, *divmod(ahead, self.accumulation))
        return self.ready.pop(place).result()

    def _make(self, step: int, micro: int) -> Batch:
        return {name: self.pin(tensor) for name, tensor in self.batches.at(step, micro).items()}

    def close(self) -> None:
        """End the thread; what it still works on is waited for, what it has not begun is dropped."""
        self.thread.shutdown(wait=True, cancel_futures=True)
        self.ready.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.close()
