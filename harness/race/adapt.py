"""What a user's script meets of DeepSpeed and Hugging Face, fitted to the virtual device before it starts."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from typing import Any

import torch

from harness.configuration import checked, read_configuration
from harness.device import Device
from harness.device.collectives import Backend
from harness.device.memory import DEVICE, on_device
from harness.device.torch_private import dispatch_is_off, functions_off
from harness.race.job import Program


def adapt_hugging_face() -> None:
    """Trainer and Accelerate look for a GPU themselves; here they get the virtual device, which has bf16.

    Whoever imports them, and whenever: a script may do so through a module of its own.
    """
    for name, fit in HUGGING_FACE.items():
        if name in sys.modules:
            fit(sys.modules[name])
    sys.meta_path.insert(0, FittedImport())


def _fit_training_arguments(module: Any) -> None:
    module.is_torch_bf16_gpu_available = lambda: True


def _fit_accelerate(module: Any) -> None:
    module.PartialState.default_device = property(lambda self: DEVICE)


HUGGING_FACE = {"transformers.training_args": _fit_training_arguments, "accelerate.state": _fit_accelerate}


class FittedImport(MetaPathFinder):
    """Fits the modules of HUGGING_FACE as soon as they are loaded."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: Any = None) -> ModuleSpec | None:
        spec = PathFinder.find_spec(name, path) if name in HUGGING_FACE else None
        if spec is not None and isinstance(loader := spec.loader, SourceFileLoader):
            load = loader.exec_module

            def exec_module(module: Any) -> None:
                load(module)
                HUGGING_FACE[name](module)

            loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def adapt_deepspeed(device: Device, program: Program) -> None:
    """Connect the device once the script initialises communication; lay --config over what it passes."""
    import deepspeed
    import deepspeed.comm.comm

    original = deepspeed.comm.comm.init_distributed

    def init_distributed(dist_backend: str | None = None, *args: Any, **kwargs: Any) -> None:
        original(device.backend, *args, **kwargs)
        device.connect()

    for module in list(sys.modules.values()):
        if getattr(module, "init_distributed", None) is original:
            module.init_distributed = init_distributed  # type: ignore[attr-defined]
    _use_gloo(device.backend)
    _route_collectives()
    if program.config is not None:
        deepspeed.initialize = _with_config(deepspeed.initialize, program.config)


COLLECTIVES = (
    "all_gather",
    "all_gather_into_tensor",
    "all_reduce",
    "all_to_all_single",
    "broadcast",
    "reduce",
    "reduce_scatter",
    "reduce_scatter_tensor",
)


def _route_collectives() -> None:
    """Collectives of torch.distributed on device memory go the way of those of deepspeed.comm, which is deferred."""
    for name in COLLECTIVES:
        setattr(torch.distributed, name, _routed(name, getattr(torch.distributed, name)))


def _routed(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
    from deepspeed.comm import comm

    def collective(*args: Any, **kwargs: Any) -> Any:
        # The device itself ends up here when a deferred collective runs, below its own dispatcher.
        if (
            dispatch_is_off()
            or not isinstance(comm.cdb, Backend)
            or not _any_on_device((*args, *kwargs.values()))
        ):
            return original(*args, **kwargs)
        return getattr(comm.cdb, name)(*args, **kwargs)

    return collective


def _any_on_device(values: tuple[Any, ...]) -> bool:
    flat = (item for value in values for item in (value if isinstance(value, list | tuple) else (value,)))
    with functions_off():
        return any(isinstance(item, torch.Tensor) and on_device(item) for item in flat)


def _use_gloo(backend: str) -> None:
    """A script that starts the process group itself asks for NCCL; on this device it is gloo underneath."""
    original = torch.distributed.init_process_group

    def init_process_group(backend_: Any = None, *args: Any, **kwargs: Any) -> Any:
        kwargs.pop("backend", None)
        kwargs.pop("device_id", None)
        return original(backend, *args, **kwargs)

    torch.distributed.init_process_group = init_process_group  # type: ignore[assignment]


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
