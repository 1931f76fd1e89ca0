"""Random numbers of `torch.cuda`: a generator of the device's own, which `torch.manual_seed` seeds, too."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from harness.device.shown import shown

PlainGenerator = torch.Generator
HOST = torch.device("cpu")


class AnyGenerator(type(torch.Generator)):  # type: ignore[misc]
    """So that torch's own generators still are instances of the class in their place."""

    def __instancecheck__(cls, thing: object) -> bool:
        return isinstance(thing, PlainGenerator)


class Generator(PlainGenerator, metaclass=AnyGenerator):
    """torch.Generator, which may be the device's."""

    def __new__(cls, device: Any = "cpu") -> Generator:
        return super().__new__(cls, device="cpu")  # type: ignore[call-arg]

    def __init__(self, device: Any = "cpu") -> None:
        self.on_cuda = isinstance(device, int) or torch.device(device).type == "cuda"

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return shown.device if self.on_cuda else HOST


device_generator = Generator("cuda")
"""The device's default one."""


def get_rng_state(device: Any = "cuda") -> torch.Tensor:
    return device_generator.get_state()


def get_rng_state_all() -> list[torch.Tensor]:
    """One for each device that the process sees; it has one."""
    return [device_generator.get_state() for _ in range(torch.cuda.device_count())]


def set_rng_state(new_state: torch.Tensor, device: Any = "cuda") -> None:
    device_generator.set_state(new_state)


def set_rng_state_all(new_states: Iterable[torch.Tensor]) -> None:
    states = list(new_states)
    device_generator.set_state(states[min(torch.cuda.current_device(), len(states) - 1)])


def manual_seed(seed: int) -> None:
    device_generator.manual_seed(int(seed))


def seed() -> None:
    device_generator.seed()


def initial_seed() -> int:
    return int(device_generator.initial_seed())


class DefaultGenerators(tuple[Generator, ...]):
    """torch.cuda.default_generators: whatever the index, the one that is there."""

    def __getitem__(self, index: Any) -> Any:
        return device_generator

    def __len__(self) -> int:
        return int(torch.cuda.device_count())


RANDOM = {
    "get_rng_state": get_rng_state,
    "get_rng_state_all": get_rng_state_all,
    "set_rng_state": set_rng_state,
    "set_rng_state_all": set_rng_state_all,
    "manual_seed": manual_seed,
    "manual_seed_all": manual_seed,
    "seed": seed,
    "seed_all": seed,
    "initial_seed": initial_seed,
    "default_generators": DefaultGenerators(),
}
