"""What an operator that has not run yet returns: fresh memory of the right shapes, and the arguments that it writes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import zeros as torch_zeros  # zero.Init puts its own in their place

from harness.device.arguments import argument, map_tensors
from harness.device.memory import Memory
from harness.device.operators import Operator

Tensor = torch.Tensor
Shape = tuple[torch.Size, tuple[int, ...], torch.dtype]


class Results:
    """Makes results; the shapes that an operator gives for the shapes that it is given are found once."""

    def __init__(self, memory: Memory) -> None:
        self.memory = memory
        self.shapes: dict[Any, Any] = {}

    def make(self, operator: Operator, func: Any, args: Any, kwargs: Any, made: list[Tensor]) -> Any:
        """What the call returns: the arguments that it writes and fresh memory, also listed in `made`."""
        results: list[Any] = []
        shapes = self._shapes(operator, func, args, kwargs)
        for position, shape in zip(operator.returned, shapes, strict=True):
            if position is not None:
                results.append(argument(operator, func, args, kwargs, position))
            elif isinstance(shape, list):
                results.append([self._empty(one, made) for one in shape])
            else:
                results.append(None if shape is None else self._empty(shape, made))
        return results[0] if len(results) == 1 else (tuple(results) or None)

    def _empty(self, shape: Shape, made: list[Tensor]) -> Tensor:
        made.append(self.memory.empty(*shape))
        return made[-1]

    def _shapes(self, operator: Operator, func: Any, args: Any, kwargs: Any) -> Sequence[Any]:
        """Size, strides and dtype of each fresh result, from the same kernel on zeros: exact where meta is not.

        Random kernels run every time, so that the generator moves on as it would have.
        """
        if not operator.random:
            if not operator.returns_fresh:
                return operator.returned
            key = (func, *_shape_key(operator, args, kwargs))
            if (known := self.shapes.get(key)) is not None:
                return known  # type: ignore[no-any-return]
        stand_in_args, stand_in_kwargs = map_tensors(_zeros, args, kwargs)
        out = func(*stand_in_args, **stand_in_kwargs)
        results = out if len(operator.returned) > 1 else (out,)
        shapes = [
            [_shape(t) for t in result] if isinstance(result, list | tuple) else _shape(result)
            for result in results
        ]
        if not operator.random:
            self.shapes[key] = shapes
        return shapes


def _zeros(tensor: Tensor) -> Tensor:
    extent = 1 + sum((n - 1) * step for n, step in zip(tensor.shape, tensor.stride(), strict=True))
    return torch_zeros(max(extent, 1), dtype=tensor.dtype).as_strided(tensor.size(), tensor.stride())


def _shape(value: Any) -> Shape | None:
    return (value.size(), value.stride(), value.dtype) if isinstance(value, Tensor) else None


def _shape_key(operator: Operator, args: Iterable[Any], kwargs: dict[str, Any]) -> list[Any]:
    """Hashable for all that decides the shape of a result. Numbers keep their type: 1, 1.0 and True differ."""
    key: list[Any] = []
    for x in args:
        if isinstance(x, Tensor):
            key.append((x.dtype, x.size(), x.stride()))
        elif isinstance(x, list | tuple):
            key.append(tuple(_shape_key(operator, x, {})))
        elif isinstance(x, float) and not operator.float_shapes:
            key.append(float)
        else:
            key.append((type(x), x))
    if kwargs:
        key.extend(kwargs)
        key.extend(_shape_key(operator, kwargs.values(), {}))
    return key
