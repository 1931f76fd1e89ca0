"""Subclasses of torch.Tensor with a dispatch of their own: made of other tensors, as DTensor, or a shape alone."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch

Tensor = torch.Tensor


@cache
def is_made_of_others(kind: Any) -> bool:
    """Whether tensors of this kind only hold others (PyTorch's "traceable wrapper subclasses")."""
    return hasattr(kind, "__tensor_flatten__")


@cache
def is_shape_alone(kind: Any) -> bool:
    """Whether tensors of this kind have no content, as torch's FakeTensor, by which DTensor asks for a result's."""
    return not is_made_of_others(kind) and kind.__torch_dispatch__ is not Tensor.__torch_dispatch__


def parts_of(tensor: Tensor) -> list[Tensor]:
    """The tensors that one made of others holds; any other is its own only part."""
    if not is_made_of_others(type(tensor)):
        return [tensor]
    whole: Any = tensor
    names, _ = whole.__tensor_flatten__()
    parts = [getattr(tensor, name) for name in names]
    return [held for part in parts if isinstance(part, Tensor) for held in parts_of(part)]
