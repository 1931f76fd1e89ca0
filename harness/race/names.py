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
from harness.device.subclasses import parts_of
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
                if isinstance(tensor, torch.Tensor) and any(
                    _lies_in(held, storage, view) for held in parts_of(tensor)
                ):
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
        """The name of a variable, of an attribute of `self` or of an optimizer's parameter, in the issuing frames."""
        frame: FrameType | None = sys._getframe(2)
        stepped = None  # the program's own name goes first
        while frame is not None:
            owner = frame.f_locals.get("self")
            if stepped is None and isinstance(owner, torch.optim.Optimizer):
                stepped = _of_optimizer(owner, storage)
            if not is_hidden(frame.f_code):
                attributes = vars(owner) if hasattr(owner, "__dict__") else {}
                for found, prefix in ((dict(frame.f_locals), ""), (attributes, f"{type(owner).__name__}.")):
                    for name, value in list(found.items()):
                        if part := _part_in(value, storage):
                            return prefix + plain_name(name) + part.removeprefix("data")
            frame = frame.f_back
        return stepped or None


def _of_optimizer(optimizer: torch.optim.Optimizer, storage: int) -> str:
    """The parameter of an optimizer that lies there, or its gradient, by its number: copies on a host have no name."""
    parameters = [one for group in getattr(optimizer, "param_groups", ()) for one in group["params"]]
    parts = ((number, _part_in(one, storage)) for number, one in enumerate(parameters))
    number, part = next(((number, part) for number, part in parts if part), (0, ""))
    return part and f"{type(optimizer).__name__}.parameter{number}{part.removeprefix('data')}"


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


def _part_in(value: Any, storage: int) -> str:
    """Which part of a tensor, or of one in a list, lies there: `data` or `.grad`; empty where none does."""
    tensors = [
        one for one in (value[:64] if isinstance(value, list | tuple) else (value,)) if _is_tensor(one)
    ]
    grads = [one.grad for one in tensors if one.is_leaf and one.grad is not None]
    return "data" if _any_in(tensors, storage) else ".grad" if _any_in(grads, storage) else ""


def _is_tensor(value: Any) -> bool:
    return isinstance(value, torch.Tensor)


def _any_in(tensors: list[torch.Tensor], storage: int) -> bool:
    held = (allocation_of(part) for one in tensors for part in parts_of(one))
    return any(allocation is not None and allocation.id == storage for allocation in held)
