"""The function mode of the virtual device: what Python code sees of a tensor's place, and copies that it asks for.

Torch holds host and device tensors alike for `cpu` and would turn `.to("cpu")` into nothing; here such calls become
the copies that CUDA makes, `.device` answers `cpu:0` for device memory, and calls that read memory behind the
dispatcher's back wait for the device first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from harness.device.memory import DEVICE, Memory, accesses, is_pinned, names_device, on_device
from harness.device.observe import HOST, OpRecord
from harness.device.shown import shown
from harness.device.streams import Machine
from harness.device.torch_private import Overload

Tensor = torch.Tensor
Handler = Callable[["Functions", Any, Any, Any], Any]


class Functions(TorchFunctionMode):
    """See the module. `placement` tells the dispatcher where the call in progress wants new memory."""

    def __init__(self, machine: Machine, memory: Memory, handlers: Mapping[Any, Handler]) -> None:
        super().__init__()
        self.machine, self.memory, self.handlers = machine, memory, handlers
        self.call: tuple[Any, ...] | None = None  # arguments of the torch function in progress
        self.asked: bool | None = None  # where it said that its result goes: True for the device

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        handler = self.handlers.get(func)
        if handler is not None:
            return handler(self, func, args, kwargs or {})
        if kwargs and "device" in kwargs and shown.mapped and not isinstance(func, Overload):
            return self._placed(func, args, kwargs)
        self.call = args
        try:
            return func(*args, **kwargs) if kwargs else func(*args)
        finally:
            self.call = None

    def _placed(self, func: Any, args: Any, kwargs: Any) -> Any:
        """A call of a function without a handler that says where its result goes."""
        device = kwargs["device"]
        wanted = None if device is None else names_device(device)
        if wanted:
            kwargs = {**kwargs, "device": DEVICE}
        self.call = args
        try:
            return func(*args, **kwargs) if wanted is None else self.asking(wanted, func, args, kwargs)
        finally:
            self.call = None

    def calling(self, func: Any, *args: Any) -> Any:
        """The same, for handlers."""
        self.call = args
        try:
            return func(*args)
        finally:
            self.call = None

    def placement(self) -> bool | None:
        """Where memory made by a kernel without a tensor input goes: as the Python call in progress said, else to
        where its arguments are. Without a Python call it is an autograd formula's, and follows its input: None."""
        if self.asked is not None:
            return self.asked
        if self.call is None:
            return None
        return any(on_device(x) for x in self.call if isinstance(x, Tensor))

    def asking(self, device: bool | None, func: Any, args: Any, kwargs: Any) -> Any:
        """Call a torch function whose new memory goes to the device (True) or the host (False)."""
        self.asked = device
        try:
            return func(*args, **kwargs)
        finally:
            self.asked = None

    def sync(self, reason: str) -> None:
        self.machine.host_wait(self.machine.current, reason)

    def device_reads(self, name: str, tensor: Tensor) -> None:
        """Python reads device memory: a copy on the current stream, which the host waits for."""
        machine = self.machine
        if machine.observers:
            record = OpRecord(machine.ops, name, machine.current.id, "op", accesses((tensor,)), ())
            for observer in machine.observers:
                observer.on_op(record)
        machine.issue(name, lambda: None)
        self.sync(f"read: {name}")
        machine.reader(tensor)

    def host_reads(self, name: str, tensor: Tensor) -> None:
        """Python reads host memory without an operator that the dispatcher would see."""
        machine = self.machine
        if machine.observers and is_pinned(tensor):
            read = accesses((tensor,))
            record = OpRecord(machine.ops, name, HOST, "op", read, ())
            for observer in machine.observers:
                observer.on_op(record)
