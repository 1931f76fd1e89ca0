"""Recipes that name a DeepSpeed configuration rather than being one: Accelerate, LLaMA-Factory, axolotl, HF Trainer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from difflib import get_close_matches
from pathlib import PurePath
from typing import Any

from harness.configuration.facts import facts_of, trainer_facts
from harness.configuration.found import Found, per_node, whole
from harness.configuration.remarks import Remark
from harness.system.errors import HarnessError

Follow = Callable[[str], Found]
"""Reads the configuration that a recipe names."""

ACCELERATE_BLOCK = {
    *(
        "deepspeed_config_file",
        "deepspeed_hostfile",
        "deepspeed_multinode_launcher",
        "gradient_accumulation_steps",
    ),
    *("gradient_clipping", "offload_optimizer_device", "offload_param_device", "offload_optimizer_nvme_path"),
    *("offload_param_nvme_path", "zero3_init_flag", "zero3_save_16bit_model", "zero_stage"),
    *("deepspeed_exclusion_filter", "deepspeed_inclusion_filter", "deepspeed_moe_layer_cls_names"),
}
OPEN: dict[str, Any] = {  # in all of these left to the trainer
    "bf16": {"enabled": "auto"},
    "fp16": {"enabled": "auto"},
    "gradient_accumulation_steps": "auto",
    "train_micro_batch_size_per_gpu": "auto",
}
OFFLOADED: dict[str, Any] = {"offload_optimizer": {"device": "cpu"}, "offload_param": {"device": "cpu"}}
BUILT_IN: dict[str, dict[str, Any]] = {
    # Files that trainers bring along, by their names without .json.
    **{f"zero{stage}": {"stage": stage} for stage in range(4)},  # ms-swift, axolotl
    "zero2_offload": {"stage": 2, "offload_optimizer": {"device": "cpu"}},
    "zero3_offload": {"stage": 3, **OFFLOADED},
    "zero3_bf16": {"stage": 3},
    "zero3_bf16_cpuoffload_all": {"stage": 3, **OFFLOADED},
    "zero3_bf16_cpuoffload_params": {"stage": 3, "offload_param": {"device": "cpu"}},
    "zero1_torch_compile": {"stage": 1},
    **{f"zero_stage{stage}_config": {"stage": stage} for stage in (1, 2, 3)},  # Accelerate
    **{f"ds_z{stage}_config": {"stage": stage} for stage in (0, 2, 3)},  # LLaMA-Factory
    "ds_z2_offload_config": {"stage": 2, "offload_optimizer": {"device": "cpu"}},
    "ds_z3_offload_config": {"stage": 3, **OFFLOADED},
}
AXOLOTL = {
    "micro_batch_size": "per_device_train_batch_size",
    "optimizer": "optim",
    "lr_scheduler": "lr_scheduler_type",
}


def from_accelerate(keys: Mapping[str, Any], source: str, follow: Follow) -> Found:
    """An Accelerate configuration, as `accelerate config` writes it. Raises HarnessError where it uses no DeepSpeed."""
    kind = str(keys.get("distributed_type", "DEEPSPEED")).upper()
    block = keys.get("deepspeed_config") or {}
    if kind != "DEEPSPEED" or not isinstance(block, Mapping):
        raise HarnessError(
            f"{source}: distributed_type is {kind}: this trains without DeepSpeed, so hpZ has no part in it"
        )
    world, nodes = whole(keys.get("num_processes")), whole(keys.get("num_machines"))
    dtype = str(keys.get("mixed_precision", "no")).lower()
    named = block.get("deepspeed_config_file")
    found = Found(
        form="Accelerate configuration",
        deepspeed=None if named else accelerate_keys(block, dtype),
        arguments={"bf16": dtype == "bf16", "fp16": dtype == "fp16"} if "mixed_precision" in keys else {},
        world_size=world,
        ranks_per_node=per_node(world, nodes),
        facts=facts_of(keys.get("dynamo_config") or {})
        | facts_of(keys.get("parallelism_config") or {})
        | {"accelerate"},
        remarks=tuple(_accelerate_remarks(block)),
    )
    return found.filled(named_configuration(str(named), follow)) if named else found


def accelerate_keys(block: Mapping[str, Any], dtype: str) -> dict[str, Any]:
    """DeepSpeed's keys as Accelerate makes them of its own."""
    zero: dict[str, Any] = {"stage": block.get("zero_stage", 2)}
    for what in ("optimizer", "param"):
        if (device := block.get(f"offload_{what}_device")) not in (None, "none"):
            zero[f"offload_{what}"] = {"device": device}
    config: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_accumulation_steps": block.get("gradient_accumulation_steps", "auto"),
        "zero_optimization": zero,
    }
    if block.get("gradient_clipping"):
        config["gradient_clipping"] = block["gradient_clipping"]
    return config | ({dtype: {"enabled": True}} if dtype in ("bf16", "fp16") else {})


def _accelerate_remarks(block: Mapping[str, Any]) -> list[Remark]:
    unknown = [str(key) for key in block if key not in ACCELERATE_BLOCK]
    return [
        Remark(
            "ignored",
            f"deepspeed_config.{key}",
            f"deepspeed_config.{key} is no key of Accelerate's, which ignores it; DeepSpeed's own keys, hpZ's too, "
            "stand in a JSON file named by deepspeed_config_file",
        )
        for key in unknown
    ]


def from_trainer(keys: Mapping[str, Any], source: str, follow: Follow, form: str) -> Found:
    """Arguments of Hugging Face's Trainer, as LLaMA-Factory, TRL and ms-swift take them, too."""
    model = next(
        (str(keys[key]) for key in ("model_name_or_path", "model", "model_id_or_path") if keys.get(key)), None
    )
    return _with_deepspeed(
        Found(
            form=form,
            arguments=dict(keys),
            world_size=whole(keys.get("world_size")) or whole(keys.get("global_world_size")),
            model=model,
            facts=facts_of(keys, model) | trainer_facts(model),
        ),
        keys,
        source,
        follow,
    )


def from_axolotl(keys: Mapping[str, Any], source: str, follow: Follow) -> Found:
    """An axolotl recipe, in which some arguments have names of their own."""
    arguments = {AXOLOTL.get(key, key): value for key, value in keys.items()}
    model = str(keys["base_model"]) if keys.get("base_model") else None
    found = Found(
        form="axolotl recipe",
        arguments=arguments,
        model=model,
        facts=facts_of(keys, model) | trainer_facts(model),
    )
    return _with_deepspeed(found, keys, source, follow)


def _with_deepspeed(found: Found, keys: Mapping[str, Any], source: str, follow: Follow) -> Found:
    """With what the key `deepspeed` names or holds. Raises HarnessError where there is none."""
    named = keys.get("deepspeed")
    if isinstance(named, Mapping):
        return found.filled(Found(deepspeed=dict(named)))
    if not named:
        close = get_close_matches(
            "deepspeed", [str(key) for key in keys if key != "deepspeed"], n=1, cutoff=0.75
        )
        hint = f"did you mean deepspeed by {close[0]}? " if close else ""
        raise HarnessError(
            f"{source}: this {found.form} names no DeepSpeed configuration (key deepspeed); {hint}Give the one that "
            "training is started with as --config, and this as --trainer-args"
        )
    return found.filled(named_configuration(str(named), follow))


def named_configuration(named: str, follow: Follow) -> Found:
    """The configuration of a name: a file, or one that a trainer brings along under it. Raises HarnessError.

    Of the latter, read are stage and offloading; the rest differs between that trainer's releases.
    """
    brought = brought_along(named)
    if brought is None:
        return follow(named)
    try:
        return follow(named)
    except HarnessError:
        return brought


def brought_along(named: str) -> Found | None:
    """What is known of the configuration that a trainer brings along under this name; None where none does."""
    name = PurePath(named).name.removesuffix(".json").removeprefix("default-").replace("-", "_")
    if name not in BUILT_IN:
        return None
    text = (
        f"{named} is taken for the file of that name that the trainer brings: known are stage and offloading"
    )
    return Found(
        deepspeed={**OPEN, "zero_optimization": {**BUILT_IN[name], "overlap_comm": "auto"}},
        unread=frozenset({"zero_optimization.overlap_comm"}),
        remarks=(Remark("assumed", "deepspeed", text),),
    )


def facts_of_config(keys: Mapping[str, Any]) -> frozenset[str]:
    """Facts that DeepSpeed's own keys show."""
    found: set[str] = set()
    optimizer = keys.get("optimizer")
    if isinstance(optimizer, Mapping) and "muon" in str(optimizer.get("type", "")).lower():
        found.add("muon")
    parallel = keys.get("tensor_parallel")
    if isinstance(parallel, Mapping) and (whole(parallel.get("autotp_size")) or 0) > 1:
        found.add("tensor parallel")
    if (whole(keys.get("sequence_parallel_size")) or 0) > 1:
        found.add("sequence parallel")
    compiling = keys.get("compile")
    if isinstance(compiling, Mapping) and (compiling.get("deepcompile") or compiling.get("enabled")):
        found.add("compile")
    if _has_auto(keys):
        found |= trainer_facts(None)
    zero = keys.get("zero_optimization")
    if isinstance(zero, Mapping) and zero.get("leaf_module"):
        found.add("leaf modules")
    return frozenset(found)


def _has_auto(keys: Mapping[str, Any]) -> bool:
    return any(
        value == "auto" or (isinstance(value, Mapping) and _has_auto(value)) for value in keys.values()
    )
