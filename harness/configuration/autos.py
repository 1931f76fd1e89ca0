"""`"auto"` in a DeepSpeed configuration, filled in as Hugging Face's integration does, or said to be unknown.

Source: transformers/integrations/deepspeed.py (`trainer_config_process`, `trainer_config_finalize`).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

from harness.configuration.facts import ON
from harness.configuration.keys import AUTO
from harness.configuration.remarks import Remark

DEFAULTS = {
    # Of the Trainer's arguments that matter here; None: no default that holds for all releases.
    "per_device_train_batch_size": 8,
    "gradient_accumulation_steps": 1,
    "max_grad_norm": 1.0,
    "learning_rate": 5e-5,
    "weight_decay": 0.0,
    "adam_epsilon": 1e-8,
}
FROM_ARGUMENTS: dict[str, str] = {
    "train_micro_batch_size_per_gpu": "per_device_train_batch_size",
    "gradient_accumulation_steps": "gradient_accumulation_steps",
    "gradient_clipping": "max_grad_norm",
    "optimizer.params.lr": "learning_rate",
    "optimizer.params.weight_decay": "weight_decay",
    "optimizer.params.eps": "adam_epsilon",
    "scheduler.params.warmup_max_lr": "learning_rate",
}
FROM_WIDTH: dict[str, Callable[[int], int]] = {
    "zero_optimization.reduce_bucket_size": lambda width: width * width,
    "zero_optimization.stage3_prefetch_bucket_size": lambda width: int(0.9 * width * width),
    "zero_optimization.stage3_param_persistence_threshold": lambda width: 10 * width,
}
FILLED = {*FROM_ARGUMENTS, *FROM_WIDTH, "fp16.enabled", "bf16.enabled", "train_batch_size"}
DECIDES = (
    "fp16.enabled",
    "bf16.enabled",
    "gradient_accumulation_steps",
    *FROM_WIDTH,
)  # for what is judged here
HALF_BY_DEFAULT = ("pure_bf16",)
DTYPES = ("torch_dtype", "param_dtype", "compute_dtype")  # of ms-swift and OpenRLHF
HALVES = {"bfloat16": "bf16", "float16": "fp16", "bf16": "bf16", "fp16": "fp16", "float32": "", "fp32": ""}


def resolved(
    config: Mapping[str, Any],
    arguments: Mapping[str, Any],
    world_size: int | None = None,
    width: int | None = None,
) -> tuple[dict[str, Any], list[Remark]]:
    """The configuration with each "auto" that can be known filled in, and what is to be said of the others.

    `arguments` are the Trainer's, empty where they are not known; `width` is the model's hidden size.
    """
    filled: dict[str, Any] = copy.deepcopy(dict(config))
    for path in _autos(filled):
        if (value := _value(path, filled, arguments, world_size, width)) is not None:
            _put(filled, path, value)
    left = _autos(filled)
    return filled, [*_nobody_fills(left), *_unknown(left, bool(arguments), width)]


def _value(
    path: str, config: Mapping[str, Any], arguments: Mapping[str, Any], world: int | None, width: int | None
) -> Any:
    if path in FROM_WIDTH:
        return FROM_WIDTH[path](width) if width else None
    if not arguments:
        return None
    if path in ("fp16.enabled", "bf16.enabled"):
        return _half(path.partition(".")[0], arguments)
    if path in FROM_ARGUMENTS:
        name = FROM_ARGUMENTS[path]
        return _number(arguments.get(name, DEFAULTS[name] if _of_trainer(arguments) else None))
    micro, steps = (
        _number(_at(config, key)) for key in ("train_micro_batch_size_per_gpu", "gradient_accumulation_steps")
    )
    return micro * steps * world if path == "train_batch_size" and micro and steps and world else None


def _of_trainer(arguments: Mapping[str, Any]) -> bool:
    """Whether these are arguments enough for what is not among them to have its default."""
    return any(
        name in arguments
        for name in ("per_device_train_batch_size", "output_dir", "learning_rate", "num_train_epochs")
    )


def _half(kind: str, arguments: Mapping[str, Any]) -> bool | None:
    """Whether the Trainer asks for a 16-bit type; None where it depends on the machine or is not known."""
    if kind == "bf16" and any(arguments.get(name) in ON for name in HALF_BY_DEFAULT):
        return True
    value = arguments.get(kind)
    dtype = next((str(arguments[name]).rpartition(".")[2] for name in DTYPES if arguments.get(name)), None)
    if value is None and dtype in HALVES:
        return HALVES[dtype] == kind
    if isinstance(value, str) and value.lower() in ("auto", "full"):
        return True if value.lower() == "full" else None
    if value is None:
        other = arguments.get("fp16" if kind == "bf16" else "bf16")
        return False if other in ON else None  # a trainer's own default may be the type of the weights
    return value in ON


def _number(value: Any) -> Any:
    if isinstance(value, str):
        try:
            number = float(value)
        except ValueError:
            return None
        return int(number) if number.is_integer() and "." not in value else number
    return value


def _autos(config: Mapping[str, Any], path: str = "") -> list[str]:
    found: list[str] = []
    for key, value in config.items():
        if value == AUTO:
            found.append(f"{path}{key}")
        elif isinstance(value, Mapping):
            found += _autos(value, f"{path}{key}.")
    return found


def _nobody_fills(left: list[str]) -> list[Remark]:
    """Keys of ZeRO that no integration fills in: DeepSpeed leaves them out, and their default holds."""
    lost = [path for path in left if path.startswith("zero_optimization.") and path not in FILLED]
    return [
        Remark(
            "ignored",
            path,
            f'{path} is "auto", which nobody fills in: DeepSpeed leaves it out and takes its default',
        )
        for path in lost
    ]


def _unknown(left: list[str], with_arguments: bool, width: int | None) -> list[Remark]:
    """One sentence on the values that decide and are not known."""
    keys = [path for path in left if path in DECIDES]
    wanted = [
        *(["--trainer-args"] if any(path not in FROM_WIDTH for path in keys) and not with_arguments else []),
        *(["--model"] if any(path in FROM_WIDTH for path in keys) and not width else []),
    ]
    if not keys:
        return []
    ask = f"; give {' and '.join(wanted)}" if wanted else ""
    return [
        Remark(
            "auto",
            keys[0],
            f'{", ".join(keys)}: "auto", which the Trainer fills in and is not known here{ask}',
        )
    ]


def _at(config: Mapping[str, Any], path: str) -> Any:
    inner: Any = config
    for key in path.split("."):
        inner = inner.get(key) if isinstance(inner, Mapping) else None
    return inner


def _put(config: dict[str, Any], path: str, value: Any) -> None:
    *parents, last = path.split(".")
    inner = config
    for key in parents:
        inner = inner[key]
    inner[last] = value
