"""What Lightning's Trainer or Fabric is told of a training, in a script or in a recipe of its CLI or of Hydra."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from harness.configuration.found import Found, whole
from harness.configuration.recipes import Follow
from harness.system.errors import HarnessError

LIGHTNING = ("accelerator", "devices", "num_nodes", "precision", "strategy")
"""Arguments that Lightning's Trainer and Fabric take and Hugging Face's Trainer does not."""
STRATEGY = re.compile(r"deepspeed(?:_stage_([123])(_offload)?(?:_nvme)?)?")
CLASS = "DeepSpeedStrategy"
OFFLOADED = {"offload_optimizer": "offload_optimizer", "offload_parameters": "offload_param"}
"""The strategy's own arguments → DeepSpeed's keys."""


def trainer_of(keys: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The part of a recipe that makes Lightning's Trainer or Fabric; None where there is none."""
    parts = (keys.get("trainer"), keys.get("fabric"), keys)
    return next(
        (
            part
            for part in parts
            if isinstance(part, Mapping)
            and "strategy" in part
            and any(name in part for name in LIGHTNING if name != "strategy")
        ),
        None,
    )


def from_lightning(trainer: Mapping[str, Any], source: str, follow: Follow) -> Found:
    """What a recipe says. Raises HarnessError where it trains without DeepSpeed, or names a file that is not here."""
    world, here = ranks(trainer)
    found = Found(
        form="Lightning recipe", arguments=precision(trainer), world_size=world, ranks_per_node=here
    )
    strategy = trainer["strategy"]
    if isinstance(strategy, Mapping):
        name = str(strategy.get("class_path") or strategy.get("_target_") or "")
        given = strategy.get("init_args", strategy)
        if name.rpartition(".")[2] == CLASS and isinstance(given, Mapping):
            config = given.get("config")
            if isinstance(config, str):
                return found.filled(follow(config))
            return found.filled(
                Found(deepspeed=dict(config) if isinstance(config, Mapping) else zero_of_class(given))
            )
    else:
        name = str(strategy)
        if (zero := zero_of(name)) is not None:
            return found.filled(Found(deepspeed=zero))
    raise HarnessError(
        f"{source}: the strategy is {name}: this trains without DeepSpeed, so hpZ has no part in it"
    )


def zero_of(strategy: str) -> dict[str, Any] | None:
    """DeepSpeed's keys of a strategy's name, "deepspeed_stage_3_offload"; None for one that is not DeepSpeed's."""
    found = STRATEGY.fullmatch(strategy)
    if found is None:
        return None
    offload = {"offload_optimizer": bool(found[2]), "offload_parameters": bool(found[2]) and found[1] == "3"}
    return zero_of_class({"stage": int(found[1] or 2), **offload})


def zero_of_class(given: Mapping[str, Any]) -> dict[str, Any]:
    """DeepSpeed's keys of the arguments of DeepSpeedStrategy."""
    cpu = {key: {"device": "cpu"} for name, key in OFFLOADED.items() if given.get(name) is True}
    return {"zero_optimization": {"stage": given.get("stage", 2), **cpu}}


def ranks(trainer: Mapping[str, Any]) -> tuple[int | None, int | None]:
    """World size and ranks on a node: `devices` is a number or a list of them; -1 and "auto" are all there are."""
    devices = trainer.get("devices")
    here = len(devices) if isinstance(devices, list) else whole(devices)
    nodes = whole(trainer.get("num_nodes", 1))
    return (here * nodes if here and nodes else None), here


def precision(trainer: Mapping[str, Any]) -> dict[str, Any]:
    """What is made of the precision, "bf16-mixed" or "16-true", by the names of the Trainer's arguments."""
    named = str(trainer.get("precision", ""))
    half = "bf16" if named.startswith("bf16") else "fp16" if named.startswith("16") else ""
    return {half: True} if half else {}
