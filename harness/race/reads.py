"""What a rank's host reads of its device: what a program computes counts although nothing of it is left at its end.

The host has waited for all that it reads here, so under every schedule that keeps to the program's order it reads the
same.
"""

from __future__ import annotations

import hashlib
import threading
from typing import Any

import torch

from harness.device.torch_private import below_dispatch
from harness.race.digest import digest_tensor
from harness.race.report import Read, Reads
from harness.race.sites import capture

KEPT = 64  # single numbers that are kept with their places, for the report


class Reader:
    """Told of each number and tensor that the host reads; threads of the host count each for itself."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.own = threading.local()
        self.threads: list[Any] = []
        self.count = 0
        self.first: list[Read] = []

    def __call__(self, seen: Any) -> None:
        with below_dispatch():
            number = seen.item() if isinstance(seen, torch.Tensor) and seen.numel() == 1 else seen
            content = digest_tensor(number) if isinstance(number, torch.Tensor) else repr(number)
        with self.lock:
            if not hasattr(self.own, "digest"):
                self.own.digest = hashlib.sha256()
                self.threads.append(self.own.digest)
            self.own.digest.update(f"{content}\n".encode())
            self.count += 1
            if isinstance(number, int | float) and len(self.first) < KEPT:
                self.first.append(Read(place=next(map(str, capture(1)), ""), value=content))

    def reads(self) -> Reads | None:
        """What was read so far, whichever thread came first; None of a host that has read nothing."""
        if not self.count:
            return None
        first = tuple(self.first) if len(self.threads) == 1 else ()
        together = "\n".join(sorted(digest.hexdigest() for digest in self.threads))
        return Reads(digest=hashlib.sha256(together.encode()).hexdigest(), first=first)
