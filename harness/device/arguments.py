"""The arguments of operator calls: which tensors are among them, and which of them the call writes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch

from harness.device.operators import Operator

Tensor = torch.Tensor


def tensors_of(values: Iterable[Any]) -> list[Tensor]:
    """The tensors among arguments, which may be lists of tensors."""
    found: list[Tensor] = []
    for value in values:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, list | tuple):
            found.extend(item for item in value if isinstance(item, Tensor))
    return found


def map_tensors(change: Callable[[Tensor], Tensor], args: Any, kwargs: Any) -> tuple[Any, Any]:
    """Arguments with every tensor replaced."""
    changed = [
        change(x)
        if isinstance(x, Tensor)
        else [change(y) if isinstance(y, Tensor) else y for y in x]
        if isinstance(x, list | tuple)
        else x
        for x in args
    ]
    if kwargs:
        changed_values, _ = map_tensors(change, kwargs.values(), None)
        kwargs = dict(zip(kwargs, changed_values, strict=True))
    return changed, kwargs


def written(operator: Operator, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Tensor]:
    if not operator.written:
        return []
    values = [args[i] for i in operator.written if i < len(args)]
    values += [kwargs[name] for name in operator.written_names if name in kwargs]
    return tensors_of(values)


def argument(operator: Operator, func: Any, args: Any, kwargs: Any, position: int) -> Any:
    return args[position] if position < len(args) else kwargs[func._schema.arguments[position].name]
