"""The torch functions that mean something else on the virtual device: handlers for its function mode.

They ask where a tensor is, make one, copy between host and device, or read memory behind the dispatcher's back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import full as torch_full  # zero.Init puts its own in their place
from torch import tensor as torch_tensor

from harness.device import backward
from harness.device.errors import DeviceError
from harness.device.functions import Functions, Handler
from harness.device.memory import DEVICE, allocation_of, is_pinned, names_device, on_device, record_stream
from harness.device.shown import shown
from harness.device.streams import Stream, machine
from harness.device.torch_private import (
    below_dispatch,
    functions_off,
    on_engine,
    plain_device,
    run_backward,
)

Tensor = torch.Tensor
HANDLERS: dict[Any, Handler] = {}
HOST = torch.device("cpu")


def handles(*functions: Any) -> Callable[[Handler], Handler]:
    def register(handler: Handler) -> Handler:
        HANDLERS.update(dict.fromkeys(functions, handler))
        return handler

    return register


# ---- where a tensor is

PLACES = ("device", "is_cuda", "is_cpu")


@contextmanager
def placed_tensors() -> Iterator[None]:
    """Inside, `Tensor.device` tells device memory from host memory.

    A property of the class, since torch calls some Python code (saved-tensor hooks, its own functional layer) with
    function modes off, and that must see the same.
    """

    def device(tensor: Tensor) -> torch.device:
        with functions_off():
            return shown.device if on_device(tensor) else plain_device.__get__(tensor)

    def is_cuda(tensor: Tensor) -> bool:
        with functions_off():
            return on_device(tensor)

    Tensor.device = property(device)  # type: ignore[assignment]
    if shown.mapped:
        Tensor.is_cuda = property(is_cuda)  # type: ignore[assignment]
        Tensor.is_cpu = property(lambda tensor: not is_cuda(tensor))  # type: ignore[assignment]
    try:
        yield
    finally:
        for name in PLACES:
            if name in vars(Tensor):
                delattr(Tensor, name)  # the base class's shows again


@handles(Tensor.get_device, torch.get_device)
def _get_device(mode: Functions, func: Any, args: Any, kwargs: Any) -> Any:
    return shown.device.index if on_device(args[0]) else func(*args)


@handles(Tensor.is_pinned)
def _is_pinned(mode: Functions, func: Any, args: Any, kwargs: Any) -> bool:
    return is_pinned(args[0])


@handles(Tensor.pin_memory)
def _pin_memory(mode: Functions, func: Any, args: Any, kwargs: Any) -> Tensor:
    if on_device(args[0]):
        raise DeviceError("pin_memory: only host memory can be pinned")
    return args[0] if is_pinned(args[0]) else mode.memory.pin(args[0].clone())


@handles(Tensor.record_stream)
def _record_stream(mode: Functions, func: Any, args: Any, kwargs: Any) -> None:
    if isinstance(args[1], Stream):
        record_stream(args[0], args[1])


# ---- making tensors


@handles(torch.empty, torch.empty_strided, torch.empty_permuted, torch.zeros, torch.ones, torch.full)
@handles(torch.arange, torch.linspace, torch.logspace, torch.eye, torch.tril_indices, torch.triu_indices)
@handles(torch.rand, torch.randn, torch.randint, torch.randperm, torch.scalar_tensor)
def _factory(mode: Functions, func: Any, args: Any, kwargs: Any) -> Any:
    device = kwargs.get("device")
    wanted = False if device is None else names_device(device)
    if wanted:
        kwargs = {**kwargs, "device": DEVICE}
    return mode.asking(wanted, func, args, kwargs)


@handles(torch.empty_like, torch.zeros_like, torch.ones_like, torch.full_like)
@handles(torch.rand_like, torch.randn_like, torch.randint_like)
@handles(Tensor.new_empty, Tensor.new_empty_strided, Tensor.new_zeros, Tensor.new_ones, Tensor.new_full)
def _like(mode: Functions, func: Any, args: Any, kwargs: Any) -> Any:
    device = kwargs.get("device")
    wanted = on_device(args[0]) if device is None and args else names_device(device)
    if wanted and device is not None:
        kwargs = {**kwargs, "device": DEVICE}
    return mode.asking(wanted, func, args, kwargs)


@handles(torch.tensor, torch.as_tensor, torch.asarray, Tensor.new_tensor)
def _from_data(mode: Functions, func: Any, args: Any, kwargs: Any) -> Any:
    """Built where its data lies, then sent, as CUDA does it."""
    options = dict(kwargs)
    device, requires_grad = options.pop("device", None), options.pop("requires_grad", False)
    pinned = options.pop("pin_memory", False)
    wanted = names_device(device) if device is not None else None
    if wanted is None and device is not None:
        return func(*args, **kwargs)
    if wanted is None and func is Tensor.new_tensor:
        wanted = on_device(args[0])
    made = func(*args, **options)
    if pinned:
        mode.memory.pin(made)
    if wanted is not None:
        made = transfer(mode, made, wanted)
    return made.requires_grad_() if requires_grad else made


# ---- copies between host and device


def transfer(
    mode: Functions,
    tensor: Tensor,
    device: bool,
    dtype: torch.dtype | None = None,
    non_blocking: bool = False,
    copy: bool = False,
    memory_format: torch.memory_format = torch.preserve_format,
) -> Tensor:
    dtype = dtype or tensor.dtype
    if on_device(tensor) == device and tensor.dtype == dtype and not copy:
        if memory_format == torch.preserve_format:
            return tensor
        return tensor.contiguous(memory_format=memory_format)
    options = {
        "dtype": dtype,
        "device": DEVICE if device else HOST,
        "non_blocking": non_blocking,
        "memory_format": memory_format,
    }
    return mode.asking(device, torch.ops.aten._to_copy.default, (tensor,), options)  # type: ignore[no-any-return]


PYTHON_TYPES: dict[Any, torch.dtype] = {
    int: torch.int64,
    float: torch.float64,
    bool: torch.bool,
    complex: torch.complex128,
}  # as Tensor.to takes them for a dtype


@handles(Tensor.to)
def _to(mode: Functions, func: Any, args: Any, kwargs: Any) -> Any:
    tensor, *rest = args
    if not rest and not kwargs:
        return tensor
    if (rest and isinstance(rest[0], Tensor)) or "other" in kwargs:
        other = rest.pop(0) if rest else kwargs["other"]
        wanted: bool | None = on_device(other)
        dtype: Any = other.dtype
        rest = [None, None, *rest]
    else:
        if rest and isinstance(rest[0], torch.dtype | type):
            rest = [None, *rest]
        device = rest[0] if rest else kwargs.get("device")
        dtype = rest[1] if len(rest) > 1 else kwargs.get("dtype")
        dtype = PYTHON_TYPES.get(dtype, dtype)
        wanted = on_device(tensor) if device is None else names_device(device)
        if device is None and tensor.is_meta:
            wanted = None
    if wanted is None:  # a third kind of device, as meta
        return func(*args, **kwargs)
    non_blocking = rest[2] if len(rest) > 2 else kwargs.get("non_blocking", False)
    copy = rest[3] if len(rest) > 3 else kwargs.get("copy", False)
    layout = kwargs.get("memory_format") or torch.preserve_format
    return transfer(mode, tensor, wanted, dtype, non_blocking, copy, layout)


@handles(Tensor.cpu)
def _cpu(mode: Functions, func: Any, args: Any, kwargs: Any) -> Any:
    return transfer(mode, args[0], False)


@handles(Tensor.type_as)
def _type_as(mode: Functions, func: Any, args: Any, kwargs: Any) -> Any:
    return transfer(mode, args[0], on_device(args[1]), args[1].dtype)


@handles(Tensor.__getitem__)
def _getitem(mode: Functions, func: Any, args: Any, kwargs: Any) -> Any:
    tensor, index = args
    if _holds_list(index) and on_device(tensor):
        index = _send_lists(mode, index)
    return mode.calling(func, tensor, index)


@handles(Tensor.__setitem__)
def _setitem(mode: Functions, func: Any, args: Any, kwargs: Any) -> Any:
    """A Python number becomes a device scalar, as CUDA does it, rather than a copy from the host that waits."""
    tensor, index, value = args
    if on_device(tensor):
        index = _send_lists(mode, index) if _holds_list(index) else index
        if not isinstance(value, Tensor):
            with mode:
                value = torch_full((), value, dtype=tensor.dtype, device=DEVICE)
    return mode.calling(func, tensor, index, value)


def _holds_list(index: Any) -> bool:
    return type(index) is list or (type(index) is tuple and any(type(part) is list for part in index))


def _send_lists(mode: Functions, index: Any) -> Any:
    """Indices written as lists are built on the host and sent over, and the host waits, as with CUDA."""
    if isinstance(index, tuple):
        return tuple(_send_lists(mode, part) if isinstance(part, list) else part for part in index)
    return transfer(mode, torch_tensor(index), True)


# ---- reading memory behind the dispatcher's back


@handles(Tensor.numpy, Tensor.__array__, Tensor.__dlpack__)
def _numpy(mode: Functions, func: Any, args: Any, kwargs: Any) -> Any:
    if on_device(args[0]):
        raise TypeError("can't convert cpu:0 device type tensor to numpy. Use Tensor.cpu() to copy it first.")
    mode.host_reads("numpy", args[0])
    if is_pinned(args[0]):
        mode.machine.note_unseen("numpy arrays over pinned memory")
    return func(*args, **kwargs)


@handles(Tensor.data_ptr)
def _data_ptr(mode: Functions, func: Any, args: Any, kwargs: Any) -> Any:
    if allocation_of(args[0]) is not None:
        mode.machine.note_unseen("addresses of device or pinned memory")
    return func(*args, **kwargs)


@handles(Tensor.tolist, Tensor.__repr__, Tensor.__reduce_ex__)
def _host_read(mode: Functions, func: Any, args: Any, kwargs: Any) -> Any:
    name = func.__name__.strip("_")
    if not on_device(args[0]):
        mode.host_reads(name, args[0])
        if is_pinned(args[0]):
            mode.machine.reader(args[0])
        return func(*args, **kwargs)
    mode.device_reads(name, args[0])
    with below_dispatch():
        return func(*args, **kwargs)


@handles(Tensor.__deepcopy__)
def _deepcopy(mode: Functions, func: Any, args: Any, kwargs: Any) -> Any:
    if not on_device(args[0]):
        return func(*args, **kwargs)
    copied = _host_read(mode, func, args, kwargs)
    mode.memory.adopt(copied)
    return copied


# ---- Python code inside a torch function: the mode must see it, for hooks are the program's own


def _engine(roots: Any, *args: Any, **kwargs: Any) -> Any:
    return backward.run(machine(), run_backward, roots, *args, **kwargs)


BACKWARD = {f: on_engine(f, _engine) for f in (torch.autograd.backward, torch.autograd.grad)}


@handles(*BACKWARD)
def _backward(mode: Functions, func: Any, args: Any, kwargs: Any) -> Any:
    with mode:
        return BACKWARD[func](*args, **kwargs)


@handles(Tensor.backward)
def _tensor_backward(mode: Functions, func: Any, args: Any, kwargs: Any) -> Any:
    """Some releases of torch come from here to torch.autograd.backward with function modes off."""
    names = ("gradient", "retain_graph", "create_graph", "inputs")
    given = dict(zip(names, args[1:], strict=False)) | kwargs
    return _backward(mode, torch.autograd.backward, (args[0], given.pop("gradient", None)), given)


@handles(Tensor.grad_fn.__get__)  # type: ignore[union-attr]
def _grad_fn(mode: Functions, func: Any, args: Any, kwargs: Any) -> Any:
    """A program that keeps the node of a leaf, as for its hooks, comes to it this way."""
    node = func(*args)
    if node is not None:
        mode.machine.nodes.mark_leaves(node)
    return node
