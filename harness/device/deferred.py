"""An operator call to come: what it will touch, and where its results will lie."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from harness.device.arguments import tensors_of
from harness.device.errors import DeviceError
from harness.device.operators import describe

Tensor = torch.Tensor


class Deferred:
    """An operator call to come, on aliases of its tensors, into the memory already handed out for its results."""

    __slots__ = ("args", "func", "kwargs", "state", "targets")

    def __init__(self, func: Any, args: Any, kwargs: Any, targets: list[Tensor], state: Any) -> None:
        self.func, self.args, self.kwargs, self.targets, self.state = func, args, kwargs, targets, state

    def __call__(self) -> None:
        out = self._call() if self.state is None else self._call_with_state()
        if len(self.targets) == 1 and isinstance(out, Tensor):
            self._fill(self.targets[0], out)
        elif self.targets:
            # Written arguments are among the results, too; fresh results come in the order of the targets.
            for target, result in zip(self.targets, self._fresh(out), strict=True):
                self._fill(target, result)

    def _call(self) -> Any:
        return self.func(*self.args, **self.kwargs)

    def _call_with_state(self) -> Any:
        """The random numbers of the moment of issue."""
        generator, state = self.state
        now = generator.get_state()
        generator.set_state(state)
        try:
            return self._call()
        finally:
            generator.set_state(now)

    def _fresh(self, out: Any) -> list[Tensor]:
        returned = describe(self.func).returned
        results = out if len(returned) > 1 else (out,)
        return tensors_of([r for r, position in zip(results, returned, strict=True) if position is None])

    def _fill(self, target: Tensor, result: Tensor) -> None:
        if target.size() != result.size() or target.dtype != result.dtype:
            raise DeviceError(
                f"{self.func}: the shape of its result depends on data ({tuple(target.size())} was foreseen, "
                f"{tuple(result.size())} came), but it is not known to wait for the device"
            )
        target.copy_(result)


def generator_state(kwargs: dict[str, Any]) -> tuple[torch.Generator, Tensor]:
    generator = kwargs.get("generator") or torch.default_generator
    return generator, generator.get_state()


@contextmanager
def drawing_from(generator: torch.Generator) -> Iterator[None]:
    """Inside, what draws from torch's default generator draws from this one."""
    default = torch.default_generator
    kept = default.get_state()
    default.set_state(generator.get_state())
    try:
        yield
    finally:
        generator.set_state(default.get_state())
        default.set_state(kept)
