"""Programs that race and leave nothing of their values at their end. Run one with
`hpz race --script tests/deepspeed/race/scripts/ends.py NAME`.
"""

from __future__ import annotations

import os
import sys

import torch
from deepspeed.accelerator import get_accelerator

A = get_accelerator()
DEVICE = A.current_device_name()
RATE = 0.1


class Loader:
    def __init__(self) -> None:
        self.stream = A.Stream()


def raced() -> torch.Tensor:
    """What a step computes from a batch that a side stream may not have written yet."""
    weight, loader = torch.ones(4, device=DEVICE), Loader()
    A.synchronize()
    with A.stream(loader.stream):
        batch = torch.ones(4, device=DEVICE)
    return weight.add(batch, alpha=-RATE)


def printed() -> None:
    print(raced().sum().item())


def trained() -> None:
    """What README's first program does, in a function."""
    model, side = torch.nn.Linear(4, 1).to(DEVICE), A.Stream()
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
    for _ in range(2):
        with A.stream(side):
            batch = torch.ones(2, 4, device=DEVICE)
        model(batch).square().mean().backward()
        optimizer.step()


def silent() -> None:
    raced()
    A.synchronize()


def exits() -> None:
    value = raced()
    print(value.sum().item())
    os._exit(0)


def replaced() -> None:
    raced()
    os.execv("/bin/true", ["true"])


def looked_up() -> None:
    """An index that is out of bounds where it is read too early."""
    table, side = torch.ones(4, device=DEVICE), A.Stream()
    A.synchronize()
    with A.stream(side):
        labels = torch.zeros(2, dtype=torch.int64, device=DEVICE)
        labels.fill_(1)
    print(torch.nn.functional.embedding(labels, table[:, None]).sum().item())


def polled() -> None:
    """Reads as often as it finds the side stream still at work, which is chance."""
    value, side = raced(), A.Stream()
    with A.stream(side):
        value.add_(1)
    event = side.record_event()
    while not event.query():
        value.sum().item()


globals()[sys.argv[1]]()
