"""How long the parts of a step took: forward, backward and optimizer, on the device's clock where it has one.

On a GPU a lap is a pair of CUDA events, read once they have passed, so that measuring makes no one wait. A CPU rank has
the host's clock. The virtual device has no clock that would mean anything.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from harness.device import Device
from harness.device.collectives import HostMark

Mark = Callable[[Any], float]  # later(earlier): seconds between two moments


@dataclass
class Laps:
    """The laps of one step, in the order in which they are run; a part that is run again adds to its time."""

    mark: Callable[[], Mark | None]
    _last: Mark | None = None
    _laps: list[tuple[str, Mark, Mark]] = field(default_factory=list)

    def start(self) -> None:
        """Begin a lap here; what came before belongs to none."""
        self._last = self.mark()

    def end(self, part: str) -> None:
        """End the lap that runs, which was this part, and begin the next."""
        before, self._last = self._last, self.mark()
        if before is not None and self._last is not None:
            self._laps.append((part, before, self._last))

    def seconds(self, part: str) -> float | None:
        """Of one part; None where there is no clock. Call it once all marks have passed."""
        laps = [after(before) for name, before, after in self._laps if name == part]
        return sum(laps) if laps else None


def laps_of(device: Device) -> Laps:
    """A step's laps on the clock that suits the device; without any on the virtual device."""
    if device.kind == "cpu":
        return Laps(HostMark)
    return Laps(device.mark)
