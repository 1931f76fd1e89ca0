"""What a Python training script says of a training, read from its syntax tree and never run."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from typing import Any

from harness.configuration.bindings import bindings
from harness.configuration.expressions import UNKNOWN, called, value_of
from harness.configuration.facts import facts_of, facts_of_model, trainer_facts
from harness.configuration.files import kind_of
from harness.configuration.found import Found
from harness.configuration.keys import AUTO
from harness.configuration.lightning import CLASS, LIGHTNING, precision, ranks, zero_of, zero_of_class
from harness.configuration.recipes import Follow, accelerate_keys
from harness.configuration.remarks import Remark
from harness.system.errors import HarnessError
from harness.system.python_text import tree_of

ARGUMENTS = (
    "TrainingArguments",
    "SFTConfig",
    "DPOConfig",
    "GRPOConfig",
    "PPOConfig",
    "KTOConfig",
    "RewardConfig",
)
CALLS = {
    # The last parts of a call's name → the fact that it shows.
    "zero.Init": "zero.Init",
    "GatheredParameters": "gathered parameters",
    "set_z3_leaf_modules": "leaf modules",
    "torch.compile": "compile",
    "engine.compile": "compile",
    "get_peft_model": "peft",
    "from_pretrained": "loads weights",
    "load_checkpoint": "loads weights",
    "gradient_checkpointing_enable": "gradient checkpointing",
    "Trainer": "transformers trainer",
    "SFTTrainer": "transformers trainer",
    "GRPOTrainer": "grpo",
    "DPOTrainer": "dpo",
    "Accelerator": "accelerate",
    "MoE": "moe",
    "set_gradient_accumulation_boundary": "own boundary",
}
CONFIG_NAMES = (
    "config",
    "config_params",
    "deepspeed_config",
    "deepspeed",
    "hf_ds_config",
    "config_dict_or_path",
    "default",
)
DECIDE = ("zero_optimization", "zero_optimization.stage", "zero_optimization.zero_hpz_partition_size")
OPTIONS = ("--deepspeed_config", "--deepspeed", "--ds_config")


def from_python(text: str, source: str, follow: Follow, arguments: Mapping[str, Any] | None = None) -> Found:
    """What a script says that is started with `arguments`. Raises HarnessError where it has no configuration."""
    try:
        tree = tree_of(text)
    except SyntaxError as error:
        raise HarnessError(f"{source}: line {error.lineno}: not Python ({error.msg})") from error
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    names = bindings(tree, arguments or {})
    given = _arguments(calls, names)
    model = next(
        (str(given[key]) for key in ("model_name_or_path", "model") if given.get(key)),
        _pretrained(calls, names),
    )
    lightning = _lightning(calls, names)
    trains = bool(given) or (
        not lightning and any(called(call.func).rpartition(".")[2].endswith("Trainer") for call in calls)
    )
    world, here = ranks(lightning)
    found = Found(
        form="Python script",
        facts_read=True,
        arguments=given | precision(lightning),
        world_size=world,
        ranks_per_node=here,
        model=model,
        facts=_facts(calls)
        | facts_of(given, model)
        | facts_of_model(model)
        | (trainer_facts(None) if trains else frozenset()),
    )
    inside = _configuration_in(tree, names)
    if inside is not None:
        config, missing = inside
        if lost := [key for key in missing if key in DECIDE]:
            raise HarnessError(
                f"{source}: works out {' and '.join(lost)} itself; give the configuration that it makes as JSON, or a "
                "shell script that starts it with its arguments"
            )
        unread = [
            Remark("auto", key, f"{key} is worked out by the script, and not known here") for key in missing
        ]
        return found.filled(Found(deepspeed=config, unread=frozenset(missing))).saying(*unread)
    for name in _named_files(calls, names):
        return found.filled(follow(name))
    if (switched := _by_arguments(calls, names)) is not None:
        return found.filled(Found(deepspeed=switched))
    raise HarnessError(
        f"{source}: holds no DeepSpeed configuration as a dictionary and names no file with one; give that as --config"
    )


def facts_in(text: str) -> frozenset[str]:
    """The facts that a script's calls show; none for what is no Python."""
    try:
        tree = tree_of(text)
    except SyntaxError:
        return frozenset()
    return _facts([node for node in ast.walk(tree) if isinstance(node, ast.Call)])


def _facts(calls: list[ast.Call]) -> frozenset[str]:
    found = {
        fact
        for call in calls
        for name, fact in CALLS.items()
        if f".{called(call.func)}".endswith(f".{name}") and not (name == "Trainer" and _is_lightning(call))
    }
    inits = [call for call in calls if f".{called(call.func)}".endswith(".zero.Init")]
    return frozenset(found | ({"two zero.Init"} if len(inits) > 1 else set()))


def _configuration_in(tree: ast.Module, names: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]] | None:
    """The largest dictionary with DeepSpeed's keys, and the keys whose value is worked out."""
    found = [value_of(node, names) for node in ast.walk(tree) if isinstance(node, ast.Dict)]
    found += [value for value in names.values() if isinstance(value, dict)]  # with what is set in it later
    ours = [
        one
        for one in found
        if one and all(isinstance(key, str) for key in one) and kind_of(one) == "deepspeed"
    ]
    ours = [one for one in ours if "zero_optimization" in one or "train_micro_batch_size_per_gpu" in one]
    if not ours:
        return None
    missing: list[str] = []
    return _known(max(ours, key=lambda one: len(str(one))), "", missing), missing


def _known(config: Mapping[str, Any], path: str, missing: list[str]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in config.items():
        if value is UNKNOWN:
            missing.append(f"{path}{key}")
            result[key] = AUTO
        else:
            result[key] = _known(value, f"{path}{key}.", missing) if isinstance(value, Mapping) else value
    return result


def _arguments(calls: list[ast.Call], names: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of Hugging Face's Trainer that a script writes itself."""
    found: dict[str, Any] = {}
    for call in calls:
        if called(call.func).rpartition(".")[2].endswith(ARGUMENTS):
            values = {word.arg: value_of(word.value, names) for word in call.keywords if word.arg}
            found |= {name: value for name, value in values.items() if value is not UNKNOWN}
    return found


def _is_lightning(call: ast.Call) -> bool:
    """Whether a call makes Lightning's Trainer or Fabric rather than Hugging Face's Trainer."""
    words = {word.arg for word in call.keywords}
    return called(call.func).rpartition(".")[2] in ("Trainer", "Fabric") and not words.isdisjoint(LIGHTNING)


def _lightning(calls: list[ast.Call], names: Mapping[str, Any]) -> dict[str, Any]:
    """What Lightning's Trainer or Fabric is made with; empty where there is none."""
    made = next((call for call in calls if _is_lightning(call)), None)
    return {word.arg: value_of(word.value, names) for word in made.keywords if word.arg} if made else {}


def _named_files(calls: list[ast.Call], names: Mapping[str, Any]) -> Iterator[str]:
    """JSON files that a script names where a configuration goes."""
    for call in calls:
        words = {word.arg: value_of(word.value, names) for word in call.keywords if word.arg in CONFIG_NAMES}
        option = [one.value for one in call.args if isinstance(one, ast.Constant)]
        for name, value in words.items():
            asked = name != "default" or any(one in OPTIONS for one in option)
            if asked and isinstance(value, str) and value.endswith((".json", ".yaml", ".yml")):
                yield value


def _by_arguments(calls: list[ast.Call], names: Mapping[str, Any]) -> dict[str, Any] | None:
    """ZeRO as Accelerate's plugin and Lightning take it: `zero_stage=3`, `strategy="deepspeed_stage_3_offload"`."""
    for call in calls:
        words = {
            word.arg: value for word in call.keywords if (value := value_of(word.value, names)) is not UNKNOWN
        }
        name = called(call.func).rpartition(".")[2]
        if name == "DeepSpeedPlugin" and "zero_stage" in words:
            return accelerate_keys({key: value for key, value in words.items() if key}, "no")
        if name == CLASS and "stage" in words:
            return zero_of_class({str(key): value for key, value in words.items()})
        if (zero := zero_of(str(words.get("strategy", "")))) is not None:
            return zero
    return None


def _pretrained(calls: list[ast.Call], names: Mapping[str, Any]) -> str | None:
    for call in calls:
        if called(call.func).endswith("from_pretrained") and call.args and "Model" in called(call.func):
            value = value_of(call.args[0], names)
            return value if isinstance(value, str) else None
    return None
