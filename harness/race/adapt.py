"""What a user's script meets of DeepSpeed and Hugging Face, fitted to the virtual device before it starts."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from typing import Any

import torch

from harness.configuration import checked, read_configuration
from harness.device import VirtualDevice
from harness.device.memory import DEVICE
from harness.device.shown import shown
from harness.device.torch_private import DTENSOR, Fit
from harness.race.job import Program


def adapt_torch(device: VirtualDevice, mapped: bool) -> None:
    """Threads work on the device, too; with CUDA's names, what would be compiled for it runs as it is written.

    The kernels of a compiled function read and write what its operators do, on the same stream.
    """
    device.follow_threads()
    device.follow_data_parallel()
    if mapped:
        torch.compile = lambda model=None, **_: (lambda f: f) if model is None else model  # type: ignore[assignment]
        torch.nn.Module.compile = lambda *_, **__: None  # type: ignore[method-assign]


def adapt_libraries(mapped: bool) -> None:
    """What of libraries looks behind the device's names is fitted to it, whoever imports them, and whenever.

    Without CUDA's names Trainer and Accelerate, which look for a GPU, get the virtual device, which has bf16.
    """
    fits = DTENSOR | {"torch.distributed.tensor": _shard_attention}
    if not mapped:
        fits |= HUGGING_FACE
    for name, fit in fits.items():
        if name in sys.modules:
            fit(sys.modules[name])
    sys.meta_path.insert(0, FittedImport(fits))


def _shard_attention(module: Any) -> None:
    """A CPU's kernel of attention is sharded as CUDA's are, for which DTensor has rules: by batch or by heads."""
    from torch.distributed.tensor.experimental import register_sharding

    ways = (module.Replicate(), module.Shard(0), module.Shard(1))
    kernel = "_scaled_dot_product_flash_attention_for_cpu"
    for name, results in ((kernel, 2), (f"{kernel}_backward", 3)):

        def rule(*arguments: Any, results: int = results, **_: Any) -> list[Any]:
            given = [hasattr(one, "placements") for one in arguments]
            return [([way] * results, [way if tensor else None for tensor in given]) for way in ways]

        register_sharding(getattr(torch.ops.aten, name).default)(rule)


def _fit_training_arguments(module: Any) -> None:
    module.is_torch_bf16_gpu_available = lambda: True


def _fit_accelerate(module: Any) -> None:
    module.PartialState.default_device = property(lambda self: DEVICE)


HUGGING_FACE: dict[str, Fit] = {
    "transformers.training_args": _fit_training_arguments,
    "accelerate.state": _fit_accelerate,
}


class FittedImport(MetaPathFinder):
    """Fits modules as soon as they are loaded."""

    def __init__(self, fits: Mapping[str, Fit]) -> None:
        self.fits = fits

    def find_spec(self, name: str, path: Sequence[str] | None, target: Any = None) -> ModuleSpec | None:
        spec = PathFinder.find_spec(name, path) if name in self.fits else None
        if spec is not None and isinstance(loader := spec.loader, SourceFileLoader):
            load = loader.exec_module

            def exec_module(module: Any) -> None:
                load(module)
                self.fits[name](module)

            loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def adapt_deepspeed(device: VirtualDevice, program: Program) -> None:
    """Connect the device once the script initialises communication; lay --config over what it passes."""
    import deepspeed
    import deepspeed.comm.comm

    original = deepspeed.comm.comm.init_distributed

    def init_distributed(dist_backend: str | None = None, *args: Any, **kwargs: Any) -> None:
        original(device.backend, *args, **kwargs)
        device.connect()

    _replace("init_distributed", original, init_distributed)
    _use_gloo(device.backend)
    _route_objects(device)
    if program.config is not None:
        deepspeed.initialize = _with_config(deepspeed.initialize, program.config)


def _replace(name: str, original: Any, function: Any) -> None:
    """In every module that has it, as torch's DeviceMesh has init_process_group."""
    for module in list(sys.modules.values()):
        if getattr(module, "__dict__", {}).get(name) is original:
            setattr(module, name, function)


MET = set[str]()
"""Which functions that make process groups were called in this rank."""

OBJECT_CALLS = (
    "all_gather_object",
    "broadcast_object_list",
    "gather_object",
    "scatter_object_list",
    "send_object_list",
    "recv_object_list",
)


def _route_objects(device: VirtualDevice) -> None:
    """Python objects travel over NCCL in device memory, and the host waits for it; here they stay on the host."""
    for name in OBJECT_CALLS:
        if hasattr(torch.distributed, name):
            setattr(torch.distributed, name, _awaited(name, getattr(torch.distributed, name), device))


def _awaited(name: str, original: Callable[..., Any], device: VirtualDevice) -> Callable[..., Any]:
    place = inspect.signature(original).parameters

    def call(*args: Any, **kwargs: Any) -> Any:
        if "device" in place:
            bound = inspect.signature(original).bind(*args, **kwargs)
            bound.arguments.pop("device", None)
            args, kwargs = bound.args, bound.kwargs
        device.wait_for_current(name)
        return original(*args, **kwargs)

    return call


def _use_gloo(backend: str) -> None:
    """A script that starts process groups itself asks for NCCL; on this device it is gloo underneath."""
    for name in ("init_process_group", "new_group"):
        original = getattr(torch.distributed, name)
        _replace(name, original, _over(backend, original))
    if shown.mapped:
        setattr(torch.distributed, "get_backend", lambda group=None: "nccl")  # noqa: B010


def _over(backend: str, original: Callable[..., Any]) -> Callable[..., Any]:
    signature = inspect.signature(original)

    def call(*args: Any, **kwargs: Any) -> Any:
        MET.add(original.__name__)
        bound = signature.bind(*args, **kwargs)
        for name in ("backend", "device_id", "pg_options"):
            bound.arguments.pop(name, None)
        return original(*bound.args, **{"backend": backend, **bound.kwargs})

    return call


def _with_config(initialize: Callable[..., Any], file: str) -> Callable[..., Any]:
    """deepspeed.initialize with the keys of a file, as DeepSpeed takes them, laid over the script's own."""
    top = checked(read_config(file)).config

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        given = kwargs.pop("config", None) or kwargs.pop("config_params", None)
        arguments: Any = args[0] if args else kwargs.get("args")
        if given is None and getattr(arguments, "deepspeed_config", None):
            given, arguments.deepspeed_config = arguments.deepspeed_config, None
        return initialize(*args, config=overlaid(read_config(given), top), **kwargs)

    return wrapped


def read_config(source: Any) -> dict[str, Any]:
    """A DeepSpeed configuration from a dict, a file name or nothing. Raises HarnessError."""
    if source is None:
        return {}
    return dict(source) if isinstance(source, Mapping) else read_configuration(Path(source)).deepspeed or {}


def overlaid(base: Mapping[str, Any], top: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with the keys of `top`; a value `auto` in `top` leaves what is there."""
    result = dict(base)
    for key, value in top.items():
        if isinstance(value, Mapping) and isinstance(result.get(key), Mapping):
            result[key] = overlaid(result[key], value)
        elif value != "auto":
            result[key] = value
    return result
