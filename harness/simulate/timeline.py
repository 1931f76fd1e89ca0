"""The timeline of a trace on a cluster: when each row started and ended, why then, and what follows from it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from harness.simulate.costs import LIMITS, Costs
from harness.simulate.trace import Kind, Trace

Floats = npt.NDArray[np.float64]
LIMITED_BY = (*LIMITS, "host", "memory")


@dataclass(frozen=True, eq=False)
class Timeline:
    """Times in seconds from the first record; arrays have one value per record of the *last* repetition."""

    trace: Trace
    cost: Costs
    host_start: Floats  # when the host turned to the record
    host_end: Floats  # when it went on
    blocked: Floats  # of that, seconds spent waiting for the device
    start: Floats  # on the stream; NaN where nothing runs
    end: Floats
    step_start: float
    step_end: float
    limits: dict[str, float]  # seconds of the critical path by what bounds them; sums to the step
    peak_bytes: int  # memory that this rank needs at least
    memory_wait: float  # seconds the host waited for memory
    fits: bool  # whether the GPU's memory was enough

    @property
    def seconds(self) -> float:
        """One step in steady state."""
        return self.step_end - self.step_start

    @property
    def host_blocked(self) -> float:
        return float(self.blocked.sum())

    def blocked_by_site(self) -> dict[str, tuple[int, float]]:
        """Source line → (times that the host waited there, seconds)."""
        found: dict[str, tuple[int, float]] = {}
        sites = self.trace.columns["site"]
        for row in np.flatnonzero(sites >= 0):
            name = self.trace.sites[sites[row]]
            times, seconds = found.get(name, (0, 0.0))
            found[name] = times + 1, seconds + float(self.blocked[row])
        return found

    def exposed(self) -> float:
        """Seconds in which collectives run and no kernel does."""
        kind = self.trace.columns["kind"]
        wires, kernels = kind == Kind.COLLECTIVE, (kind == Kind.OP) | (kind == Kind.TRANSFER)
        both = covered(self.start[wires | kernels], self.end[wires | kernels])
        return both - covered(self.start[kernels], self.end[kernels])

    def margins(self) -> dict[str, float]:
        """Parameter → seconds from the end of its secondary copy to the start of the first read on another stream.

        Negative: the read begins before the copy has ended.
        """
        return {
            one.parameter: float(self.start[one.read] - self.end[one.written])
            for one in self.trace.secondaries
        }


def covered(start: Floats, end: Floats) -> float:
    """Length of the union of intervals."""
    if not len(start):
        return 0.0
    order = np.argsort(start)
    reach = np.maximum.accumulate(end[order])
    gaps = np.maximum(start[order][1:] - reach[:-1], 0.0)
    return float(reach[-1] - start[order][0] - gaps.sum())
