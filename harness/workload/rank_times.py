"""Tells rank 0 what steps take on each rank, through the store in which the ranks met, outside of any step.

No collective carries it: nobody waits for it, nothing is counted that the run did not ask for, and a rank that is late
with its word holds up none. Rank 0 writes a window once all ranks have spoken of it (harness.record.ranks).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.record import StepRecord
from harness.record.ranks import Window
from harness.system.node import node_name
from harness.workload.rank import Rank

KEY = "hpz_times"
SLOTS = 4


def window_steps(steps: int) -> int:
    """Steps of a window: enough windows in a short run to tell noise, and at most some hundred in a long one."""
    return max(1, min(10, steps // 20), steps // 500)


class RankTimes:
    """This rank's own times, and on rank 0 everybody's. `store` is a torch.distributed store."""

    def __init__(self, file: Path, place: Rank, store: Any, steps: int) -> None:
        self.file, self.place, self.store = file, place, store
        self.length, self.last, self.node = window_steps(steps), steps, node_name()
        self.window: list[StepRecord] = []
        self.told: list[int] = []  # windows that rank 0 has not written yet, by their ends

    def add(self, record: StepRecord) -> None:
        """A step that was measured; tells the others' first where a window ends with it."""
        self.window.append(record)
        until = record.step + 1
        if until % self.length and until != self.last:
            return
        steps, own = (mean(values) for values in (self._steps(), self._own()))
        content = [self.window[0].step, until, self.node, steps, own]
        self.store.set(self._key(until, self.place.rank), json.dumps(content))
        self.window.clear()
        if self.place.rank == 0:
            self.told.append(until)
            self.write()

    def _steps(self) -> list[float]:
        return [one.step_seconds if one.device_seconds is None else one.device_seconds for one in self.window]

    def _own(self) -> list[float]:
        waited = [one.exposed_comm_seconds or 0.0 for one in self.window]
        return [step - wait for step, wait in zip(self._steps(), waited, strict=True)]

    def write(self) -> None:
        """On rank 0: write the windows of which all ranks have spoken."""
        for until in [*self.told]:
            keys = [self._key(until, rank) for rank in range(self.place.world_size)]
            if not self.store.check(keys):
                return
            said = [json.loads(text) for text in self.store.multi_get(keys)]
            ends = {one[1] for one in said}
            if ends == {until}:
                with self.file.open("a") as stream:
                    stream.write(window_of(said).line())
            elif max(ends) <= until:
                return  # some have not spoken yet
            self.told.remove(until)

    def _key(self, until: int, rank: int) -> str:
        """Taken again after SLOTS windows: no rank is as far ahead of another, and the store does not grow."""
        return f"{KEY}/{(until - 1) // self.length % SLOTS}/{rank}"


def window_of(said: Sequence[Sequence[Any]]) -> Window:
    """What all ranks say of a window, in rank order, as one."""
    first, until = said[0][:2]
    nodes, steps, own = zip(*(one[2:] for one in said), strict=True)
    return Window(first, until, nodes, steps, own)


def mean(values: Sequence[float]) -> float:
    """Microseconds are enough of it."""
    return round(sum(values) / len(values), 6)
