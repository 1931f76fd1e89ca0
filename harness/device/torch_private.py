"""The private names of torch that this project stands on, each with the releases that have it in this form.

Nothing else in `harness` reaches below torch's public names (`tests/unit/system/test_house.py`), so that a new release
of torch is met here. Which releases were tried stands in `tests/matrix.md`; "all" below means all of those.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable, Mapping
from datetime import timedelta
from types import FunctionType
from typing import Any

import torch
import torch.distributed as dist
import torch.utils.data
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = [
    "DTENSOR",
    "EVENTS_AT_ONCE",
    "Fit",
    "LoaderIterator",
    "Overload",
    "PlainDispatchMode",
    "TorchDispatchMode",
    "TorchWork",
    "answer_for_accelerator",
    "answer_for_cuda",
    "around_reducers",
    "at_end_of_pass",
    "below_dispatch",
    "composed_kernel",
    "current_node",
    "function_mode",
    "functions_off",
    "group_by_place",
    "group_named",
    "hold_gpu",
    "inside_vmap",
    "keep_attributes",
    "limit_waits",
    "next_node_number",
    "on_engine",
    "open_fake_world",
    "pin_batch",
    "plain_device",
    "rendezvous_store",
    "run_backward",
    "sanitizer",
    "translate_default_devices",
    "translate_wrapper_devices",
    "unboxed_group",
    "unboxed_work",
]

functions_off = torch._C.DisableTorchFunction
"""A context in which no torch-function mode and no subclass is asked. All."""

function_mode = torch.overrides._get_current_function_mode
"""The torch-function mode that sees the next call; None inside one, or without one. All."""

Overload = torch._ops.OpOverload
"""An operator that is called by name, as tensors made of others call it: its device is what C++ takes for it. All."""

plain_device = torch._C.TensorBase.device
"""`Tensor.device` as C++ has it. All."""


RELEASE = tuple(int(part) for part in torch.__version__.split(".")[:2])


def composed_kernel(func: Any) -> Callable[..., Any]:
    """The kernel of an operator overload written in Python: the operators that it calls meet the modes. All."""
    keys = torch._C.DispatchKey
    key = keys.CPU if func.has_kernel_for_dispatch_key(keys.CPU) else keys.CompositeExplicitAutograd
    return functools.partial(func._op_dk, key)


def keep_attributes(storage: Any) -> None:
    """Let what is written on a storage stay there as long as its memory.

    In 2.6 and 2.8, not in 2.13, a collection of garbage that refers to a storage, as `torch.save` leaves it behind,
    takes the attributes of the storage although tensors still have it. What the collector does not know it spares.
    """
    if RELEASE < (2, 13):
        ctypes.pythonapi.PyObject_GC_UnTrack(ctypes.py_object(storage))


inside_vmap = torch._C._functorch.get_unwrapped
"""The tensor that a function under `torch.vmap` sees a part of; it alone has memory. All."""


class PlainDispatchMode(TorchDispatchMode):
    """A dispatch mode under which nothing is compiled.

    Newer releases (2.13, not 2.6) wrap a mode's `__torch_dispatch__` for the compiler unless it says so, and the
    wrapper would cost more than most kernels; in older ones nobody asks.
    """

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False


class below_dispatch:
    """Kernels inside run plainly: no mode sees them and autograd does not record them. All."""

    __slots__ = ("guards",)

    def __enter__(self) -> None:
        self.guards: tuple[Any, ...] = (
            functions_off(),
            torch._C._DisableTorchDispatch(),
            torch._C._AutoDispatchBelowAutograd(),
        )
        for guard in self.guards:
            guard.__enter__()

    def __exit__(self, *error: object) -> None:
        for guard in reversed(self.guards):
            guard.__exit__(*error)


current_node = torch._C._current_autograd_node
"""The node that autograd's engine is at in this thread; None outside. All."""

next_node_number = torch._C._autograd._get_sequence_nr
"""The number that the next node gets which is made in this thread; a leaf's AccumulateGrad gets none. All."""

run_backward = torch.autograd.graph._engine_run_backward
"""How torch.autograd.backward and grad call the engine: with the roots, then what goes on to it. All."""

EVENTS_AT_ONCE = RELEASE < (2, 8)
"""Whether a gradient's consumer is made to wait as soon as the gradient is there, and not when the consumer starts."""


def on_engine(func: Any, engine: Any) -> Any:
    """torch.autograd.backward or grad without its first look for function modes, so that a mode can stay on inside,

    and on another engine than `run_backward`. All find these by their names among the globals of their module.
    """
    blind = {name: lambda *_: False for name in ("has_torch_function", "has_torch_function_unary")}
    globals_ = {**func.__globals__, **blind, "_engine_run_backward": engine}
    copied = FunctionType(func.__code__, globals_, func.__name__, func.__defaults__)
    copied.__kwdefaults__ = func.__kwdefaults__
    return copied


LoaderIterator: Any = torch.utils.data.dataloader._BaseDataLoaderIter
"""What iterates over a DataLoader: made for the loader, and asked for batches by `__next__`. All."""

pin_batch: Callable[[Any], Any] = torch.utils.data._utils.pin_memory.pin_memory
"""A batch of any structure with its tensors pinned, as a DataLoader does it. All."""


def around_reducers(call: Callable[[Any, Any, Any, Any], Any]) -> None:
    """Let `call(parameters, func, args, kwargs)` call what makes the buckets of DistributedDataParallel. All."""
    made = vars(dist)["Reducer"]
    rebuild = made._rebuild_buckets
    of: dict[int, Any] = {}

    def reducer(parameters: Any, *args: Any, **kwargs: Any) -> Any:
        found = call(parameters, made, (parameters, *args), kwargs)
        of[id(found)] = parameters
        return found

    def rebuild_buckets(self: Any) -> Any:
        return call(of.get(id(self), ()), rebuild, (self,), {})

    vars(dist)["Reducer"] = reducer
    setattr(made, "_rebuild_buckets", rebuild_buckets)  # noqa: B010 (mypy takes it for a method)


def at_end_of_pass(callback: Callable[[], Any]) -> None:
    """Call it at the end of the backward pass in which this is called, after what was put there before. All."""
    torch.autograd.Variable._execution_engine.queue_callback(callback)


def rendezvous_store() -> Any:
    """The store through which the ranks of the default group met. All."""
    return dist.distributed_c10d._get_default_store()


def limit_waits(timeout: timedelta) -> None:
    """How long collectives of the default group wait for other ranks. All."""
    dist.distributed_c10d._set_pg_timeout(timeout)


TorchWork = dist.distributed_c10d.Work
"""Base of the handles of collectives; C++ asks a Python subclass. All."""


def unboxed_work(boxed: Any) -> Any:
    """The handle that an operator of c10d returned. All."""
    return TorchWork.unbox(boxed)


def unboxed_group(boxed: Any) -> Any:
    """The process group that an operator of c10d was given. All."""
    return dist.distributed_c10d.ProcessGroup.unbox(boxed)


def group_named(name: Any) -> Any:
    """The process group that functional collectives are given by name. All."""
    resolve: Any = torch._C._distributed_c10d._resolve_process_group
    return resolve(name) if isinstance(name, str) else name


def open_fake_world(rank: int, world_size: int) -> None:
    """A default group of many ranks of which only this one exists, and whose collectives do nothing. All."""
    from torch.testing._internal.distributed.fake_pg import FakeStore

    dist.init_process_group("fake", rank=rank, world_size=world_size, store=FakeStore())


def hold_gpu(cycles: int) -> None:
    """Put a delay kernel on the current stream. All."""
    torch.cuda._sleep(cycles)


def sanitizer() -> Any:
    """A new mode of torch's stream sanitizer. All; its event handler judges in `_handle_kernel_launch`."""
    from torch.cuda._sanitizer import CUDASanitizerDispatchMode

    return CUDASanitizerDispatchMode()


def answer_for_cuda(answers: Mapping[str, Any]) -> None:
    """Put functions in the place of those of torch.cuda that torch itself and libraries call by private names. All."""
    for name, value in answers.items():
        setattr(torch.cuda, f"_{name}", value)


def answer_for_accelerator(current: Callable[[], torch.device]) -> None:
    """Which kind of device FSDP takes for modules without parameters of their own. All."""
    torch._C._get_accelerator = lambda check=None: current()


def translate_wrapper_devices(translate: Callable[[Any], Any]) -> None:
    """Let tensors that only hold others lie, for C++, where those do: it would look for CUDA's own streams. All."""
    make: Any = torch.Tensor._make_wrapper_subclass

    def made(*args: Any, device: Any = None, **kwargs: Any) -> Any:
        return make(*args, device=device and translate(device), **kwargs)

    torch.Tensor._make_wrapper_subclass = staticmethod(made)  # type: ignore[method-assign]


def translate_default_devices(translate: Callable[[Any], Any]) -> None:
    """Let `with torch.device(…)` and torch.set_default_device take what `translate` makes of their device. All."""
    from torch.utils import _device

    class DeviceContext(_device.DeviceContext):
        def __init__(self, device: Any) -> None:
            super().__init__(translate(device))

    _device.DeviceContext = DeviceContext  # type: ignore[misc]


def group_by_place() -> None:
    """Group tensors, as optimizers and gradient clipping do, by the device that they show. All.

    Torch's own grouping looks below the Python property, and would send scalars to the host.
    """

    def grouped(lists: list[list[Any]], with_indices: bool = False) -> dict[Any, Any]:
        groups: dict[Any, Any] = {}
        for index, first in enumerate(lists[0]):
            key = (first.device, first.dtype)
            columns, indices = groups.setdefault(key, ([[] for _ in lists], []))
            for column, row in zip(columns, lists, strict=True):
                if row:
                    column.append(row[index])
            if with_indices:
                indices.append(index)
        return groups

    torch._C._group_tensors_by_device_and_dtype = grouped  # type: ignore[assignment]


Fit = Callable[[Any], None]  # of a module, once it is loaded


def _draw_locally(module: Any) -> None:
    module.is_rng_supported_mesh = lambda mesh: False


def _ask_elsewhere(module: Any) -> None:
    kind = module.ShardingPropagator
    ask = kind._propagate_tensor_meta_non_cached

    def asked(*args: Any) -> Any:
        with torch.utils._python_dispatch._disable_current_modes():
            return ask(*args)

    kind._propagate_tensor_meta_non_cached = asked


def _ask_for_host_memory(module: Any) -> None:
    def shape(spec: Any) -> torch.Tensor:
        meta = spec.tensor_meta
        return torch.empty_strided(meta.shape, meta.stride, dtype=meta.dtype)

    module._rebuild_tensor_from_dtensor_meta = shape


DTENSOR: dict[str, Fit] = {
    "torch.distributed.tensor._dispatch": _draw_locally,
    "torch.distributed.tensor._random": _draw_locally,
    "torch.distributed.tensor._sharding_prop": _ask_elsewhere,
    "torch.distributed.tensor._op_schema": _ask_for_host_memory,
}
"""What of DTensor would look for CUDA itself, by module. All.

Each rank draws from the generator that it has, where DTensor's own way takes the state of CUDA's apart. The shapes of
results, which DTensor learns by running an operator on tensors without content, are no business of the device's.
"""
