"""Hooks of `torch.autograd.graph.saved_tensors_hooks`: what they call is seen as what the program calls elsewhere.

Autograd packs a tensor in the middle of an operator, where the function mode is at work already and would see nothing:
a copy to the host, as `save_on_cpu` and offloaded activations make it, would be none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from harness.device.functions import Functions
from harness.device.torch_private import function_mode

Hooks = torch.autograd.graph.saved_tensors_hooks


@contextmanager
def seen_packing() -> Iterator[None]:
    """Inside, it is so of hooks that are made under a function mode of the device."""
    make = Hooks.__init__

    def made(hooks: Any, pack_hook: Callable[[Any], Any], unpack_hook: Callable[[Any], Any]) -> None:
        mode = function_mode()
        make(hooks, _seen(mode, pack_hook) if isinstance(mode, Functions) else pack_hook, unpack_hook)

    Hooks.__init__ = made  # type: ignore[method-assign,assignment]
    try:
        yield
    finally:
        Hooks.__init__ = make  # type: ignore[method-assign]


def _seen(mode: Functions, hook: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def pack(tensor: Any) -> Any:
        if function_mode() is mode:
            return hook(tensor)
        outer = mode.call, mode.asked
        mode.call = mode.asked = None
        try:
            with mode:
                return hook(tensor)
        finally:
            mode.call, mode.asked = outer

    return pack
