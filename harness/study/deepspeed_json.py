"""The DeepSpeed JSON configuration of a run, and which of its keys the study decides elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from harness.configuration import checked
from harness.study.records import Shape, Training
from harness.system.errors import HarnessError

CONTROLLED = {
    # DeepSpeed keys that the study decides elsewhere, and where.
    ("zero_optimization", "stage"): "always 3",
    ("zero_optimization", "zero_hpz_partition_size"): "set matrix.shape (hpz)",
    ("zero_optimization", "overlap_comm"): "set training.overlap_comm",
    ("train_micro_batch_size_per_gpu",): "set training.micro_batch",
    ("train_batch_size",): "set training.micro_batch and training.gradient_accumulation",
    ("gradient_accumulation_steps",): "set training.gradient_accumulation",
    ("gradient_clipping",): "set training.gradient_clipping",
    ("bf16",): "set training.dtype",
    ("optimizer",): "set training.optimizer, training.learning_rate and their kin",
    ("scheduler",): "set training.schedule and training.warmup_steps",
}


def deepspeed_config(training: Training, shape: Shape, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """The DeepSpeed JSON configuration of a run; `overrides` are the study's own `deepspeed` keys.

    The ZeRO-3 sizes default to small values under which hpZ's secondary all-gathers really happen on toy models.
    """
    zero: dict[str, Any] = {
        "stage": 3,
        "overlap_comm": training.overlap_comm,
        "contiguous_gradients": True,
        "reduce_scatter": True,
        "stage3_param_persistence_threshold": 0,
        "stage3_max_reuse_distance": 0,
    }
    config: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": training.micro_batch,
        "gradient_accumulation_steps": training.gradient_accumulation,
        "gradient_clipping": training.gradient_clipping,
        "zero_allow_untested_optimizer": True,
        "steps_per_print": 10**9,
        "timers": {"throughput": {"enabled": training.throughput_timer}},
    }
    if training.dtype == "bf16":
        config["bf16"] = {"enabled": True}
    if training.optimizer == "cpu-adam":
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": True}
    config |= {key: value for key, value in overrides.items() if key != "zero_optimization"}
    config["zero_optimization"] = zero | dict(overrides.get("zero_optimization", {}))
    if shape.hpz > 1:
        config["zero_optimization"]["zero_hpz_partition_size"] = shape.hpz
    return config


def check_keys(config: Mapping[str, Any], where: str = "") -> None:
    """Refuse a key that DeepSpeed ignores or refuses, with the nearest that it knows. Raises ValueError."""
    try:
        odd = [one for one in checked(config).remarks if one.kind in ("ignored", "refused")]
    except HarnessError as error:
        raise ValueError(where + str(error).removeprefix("config: ")) from error
    if odd:
        raise ValueError(f"{where}{odd[0]}")


def value_at(config: Mapping[str, Any], path: str) -> Any:
    """The value at a dotted path; None where there is none."""
    inner: Any = config
    for key in path.split("."):
        inner = inner.get(key) if isinstance(inner, Mapping) else None
    return inner


def with_value(config: Mapping[str, Any], path: str, value: Any) -> dict[str, Any]:
    """A copy of `config` with `value` at a dotted path. Raises HarnessError where a part of it is no mapping."""
    first, _, rest = path.partition(".")
    if not rest:
        return {**config, first: value}
    inner = config.get(first, {})
    if not isinstance(inner, Mapping):
        raise HarnessError(f"deepspeed.{first} is {inner!r} and holds no keys, so {path} cannot be swept")
    return {**config, first: with_value(inner, rest, value)}
