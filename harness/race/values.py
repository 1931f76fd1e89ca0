"""Writes down what the result of each op hashes to, so that two executions of one schedule can be held together."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import torch

from harness.device import Observer, OpRecord
from harness.device.streams import Machine
from harness.device.torch_private import below_dispatch
from harness.race.digest import digest_tensor
from harness.race.sites import capture


class Values(Observer):
    """A line an op: its index, its place, its name, and what it gave; of a collective, what it was given.

    For a policy that runs each op as it is issued.
    """

    def __init__(self, file: Path, machine: Machine) -> None:
        self.file = file.open("w", buffering=1)
        machine.recorder = self.write

    def write(self, op: OpRecord, tensors: Sequence[torch.Tensor]) -> None:
        place = next(map(str, capture(1)), "an unknown place")
        with below_dispatch():
            digests = "".join(digest_tensor(tensor) for tensor in tensors)
        self.file.write(f"{op.name} at {place}\t{hashlib.sha256(digests.encode()).hexdigest()}\n")
