"""What programs see the virtual device called: `cpu:0`, or `cuda:N` once CUDA's names are mapped onto it.

Torch itself has the device's memory under `cpu:0` in both cases. One process has one virtual device, whatever index the
program gives it: `torch.cuda.set_device` and the first place that names an index say which.
"""

from __future__ import annotations

import torch

from harness.device.errors import Unmapped

DEVICE = torch.device("cpu", 0)  # what torch calls it


class Shown:
    """The name in use in this process."""

    def __init__(self) -> None:
        self.mapped = False
        self.index: int | None = None  # as the program has said it
        self.device = DEVICE

    def as_cuda(self, mapped: bool = True) -> None:
        """Show the device as CUDA's (or, for tests, no longer)."""
        self.mapped, self.index = mapped, None
        self.device = torch.device("cuda", 0) if mapped else DEVICE

    def use(self, index: int) -> None:
        """The program says which of CUDA's devices this process has."""
        self.index, self.device = index, torch.device("cuda", index)

    def claim(self, index: int) -> None:
        """The program names an index where it places memory. Raises Unmapped for a second one."""
        if self.index is None:
            self.use(index)
        elif index not in (self.index, 0):  # 0 may have been asked for before the rank had its own
            raise Unmapped(
                f"cuda:{index} is named while this process works on cuda:{self.index}; a rank has one virtual device: "
                'call torch.cuda.set_device(LOCAL_RANK) first, or write "cuda"'
            )


shown = Shown()
