"""Programs whose schedules are searched, with how many classes they have. Run one with
`hpz race --search exhaustive --script tests/deepspeed/race/scripts/searched.py NAME`.
"""

from __future__ import annotations

import os
import sys
import time

import torch
from deepspeed.accelerator import get_accelerator

A = get_accelerator()
DEVICE = A.current_device_name()


def two_orders_together() -> float:
    """Wrong only where the side stream reads too early and yet writes too late: 4 classes, of which 1 shows it."""
    x, y, side = torch.zeros(4, device=DEVICE), torch.zeros(4, device=DEVICE), A.Stream()
    A.synchronize()
    x.fill_(1)
    with A.stream(side):
        early = x.clone()
        y.fill_(1)
    late = y.clone()
    A.synchronize()
    return torch.maximum(early, late).sum().item()


def three_writes_and_a_read() -> float:
    """The read may stand in 4 places among the writes; each gives another number."""
    x, side = torch.zeros(4, device=DEVICE), A.Stream()
    A.synchronize()
    for value in (1, 2, 3):
        x.fill_(value)
    with A.stream(side):
        seen = x.clone()
    A.synchronize()
    return seen.sum().item()


def unseeded() -> float:
    """Other numbers each time, whatever the order; and a pair that nothing orders."""
    x, side = torch.zeros(4, device=DEVICE), A.Stream()
    A.synchronize()
    x.add_(int.from_bytes(os.urandom(2)))  # the number
    with A.stream(side):
        seen = x.clone()
    A.synchronize()
    return seen.sum().item()


def clocked() -> torch.Tensor:
    """A pair that nothing orders, and a global number that differs each time."""
    global started
    started = time.time_ns()
    x, side = torch.zeros(4, device=DEVICE), A.Stream()
    A.synchronize()
    x.fill_(1)
    with A.stream(side):
        seen = x.clone()
    A.synchronize()
    return seen


result = globals()[sys.argv[1]]()
