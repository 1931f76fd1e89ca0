"""Names for memory: the parameter whose primary or secondary shard, gradient or gathered value lies there."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from types import FrameType
from typing import Any

import torch

from harness.device.memory import allocation_of
from harness.device.stream_names import plain_name
from harness.device.torch_private import functions_off
from harness.race.memory import Footprint, footprint, overlap
from harness.race.sites import is_hidden

PARTS = ("ds_secondary_tensor", "ds_tensor", "grad", "data")
ENGINES = ("DeepSpeedEngine", "PipelineEngine")
GIVE_UP = 300  # names looked up for one program before the rest is left unnamed


class Namer:
    """Looks a byte range up among the parameters of all modules, then among the variables in scope."""

    def __init__(self) -> None:
        self.parameters: dict[str, torch.nn.Parameter] = {}
        self.engine: Any = None
        self.rescans_left = 4
        self.lookups = 0

    def __call__(self, storage: int, view: Footprint) -> str | None:
        self.lookups += 1
        with functions_off():
            name = self._of_parameter(storage, view)
            if name is None and self.lookups < GIVE_UP:
                name = self._of_variable(storage)
            if name is None and self.rescans_left:  # the program may have built modules since
                self.rescans_left -= 1
                self.parameters = {}
                name = self._of_parameter(storage, view)
            return name

    def _of_parameter(self, storage: int, view: Footprint) -> str | None:
        for name, parameter in self._parameters():
            for part in PARTS:
                tensor = parameter.data if part == "data" else getattr(parameter, part, None)
                if isinstance(tensor, torch.Tensor) and _lies_in(tensor, storage, view):
                    return name if part == "data" else f"{name}.{part}"
        return None

    def step(self) -> int | None:
        """The training step under way, as the DeepSpeed engine counts."""
        return None if self.engine is None else int(self.engine.global_steps)

    def _parameters(self) -> Iterator[tuple[str, torch.nn.Parameter]]:
        if not self.parameters:
            self.parameters = {
                name: parameter for root in roots() for name, parameter in root.named_parameters()
            }
            self.engine = next((thing for thing in gc.get_objects() if type(thing).__name__ in ENGINES), None)
        yield from self.parameters.items()

    def _of_variable(self, storage: int) -> str | None:
        """The name of a variable, or of an attribute of `self`, in the frames that are issuing the op."""
        frame: FrameType | None = sys._getframe(2)
        while frame is not None:
            if not is_hidden(frame.f_code):
                names = dict(frame.f_locals)
                owner = names.get("self")
                attributes = vars(owner) if hasattr(owner, "__dict__") else {}
                for found, prefix in ((names, ""), (attributes, f"{type(owner).__name__}.")):
                    for name, value in list(found.items()):
                        if _holds(value, storage):
                            return prefix + plain_name(name)
            frame = frame.f_back
        return None


def roots() -> list[torch.nn.Module]:
    """Modules that no other module contains, the engine's own wrapper left out."""
    modules = [thing for thing in gc.get_objects() if issubclass(type(thing), torch.nn.Module)]
    modules = [module for module in modules if type(module).__name__ not in ENGINES]
    inner = {id(child) for module in modules for child in module._modules.values()}
    return [module for module in modules if id(module) not in inner]


def _lies_in(tensor: torch.Tensor, storage: int, view: Footprint) -> bool:
    allocation = allocation_of(tensor)
    if allocation is None or allocation.id != storage:
        return False
    mine = footprint(
        tensor.storage_offset(), tuple(tensor.size()), tuple(tensor.stride()), tensor.element_size()
    )
    return mine is not None and overlap(mine, view)


def _holds(value: Any, storage: int) -> bool:
    values = value[:64] if isinstance(value, list | tuple) else (value,)
    return any(
        isinstance(item, torch.Tensor) and (found := allocation_of(item)) is not None and found.id == storage
        for item in values
    )
