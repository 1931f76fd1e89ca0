"""Command lines of launchers (`deepspeed`, `torchrun`, `accelerate launch`, `fabric run`, `python -m …`) for our ranks.

What they say of machines, ports and hosts has no meaning here. What reaches a rank does: how many there are, the
program, its arguments, and the environment that the launcher sets for it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from harness.system.errors import HarnessError

LAUNCHERS = ("deepspeed", "torchrun", "accelerate", "fabric", "python", "python3")
COMMANDS = {"accelerate": "launch", "fabric": "run"}  # the one that starts a program
ASSIGNMENT = re.compile(r"[A-Za-z_]\w*=")
MODULE_FLAGS = ("-m", "--module")
DOTTED = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")


@dataclass
class Launched:
    """What a command line starts."""

    arguments: tuple[str, ...]  # of the program
    script: Path | None = None
    module: str | None = None
    ranks: int | None = None  # None: the line does not say
    environment: dict[str, str] = field(default_factory=dict)
    local_rank: bool = False  # whether the launcher adds --local_rank=N


def is_launcher(word: str) -> bool:
    """Whether a command line starts here, not a path to analyse."""
    return Path(word).name in LAUNCHERS or bool(ASSIGNMENT.match(word))


def read_launch(words: Sequence[str]) -> Launched:
    """The program and its ranks as a launcher's command line names them. Raises HarnessError."""
    environment = {}
    words = list(words)
    while words and ASSIGNMENT.match(words[0]):
        name, _, value = words.pop(0).partition("=")
        environment[name] = value
    if not words or not is_launcher(words[0]):
        raise HarnessError(
            f"{' '.join(words[:1]) or 'nothing'}: not a launcher that is known here; use one of {KNOWN}"
        )
    name = Path(words[0]).name
    command = COMMANDS.get(name)
    if command and words[1:2] != [command]:
        raise HarnessError(f"{name}: only `{name} {command} …` starts a program")
    read = _python if name.startswith("python") else _READERS[name]
    launched = read(words[2:] if command else words[1:])
    launched.environment = {**environment, **launched.environment}
    return launched


def _python(words: list[str]) -> Launched:
    while words and words[0] in ("-u", "-O", "-B"):
        words.pop(0)
    if words[:1] == ["-m"] and words[1:2] in (["torch.distributed.run"], ["torch.distributed.launch"]):
        launched = _torchrun(words[2:])
        launched.local_rank = (
            words[1].endswith("launch") and "--use_env" not in words and "--use-env" not in words
        )
        return launched
    if words[:1] == ["-m"] and words[1:2] == ["accelerate.commands.launch"]:
        return _accelerate(words[2:])
    _, launched = _split(words)
    return launched


def _torchrun(words: list[str]) -> Launched:
    options, launched = _split(words)
    each = options.get("nproc_per_node", "1")
    if each.isdigit():
        launched.ranks = int(each) * int(options.get("nnodes", "1").rpartition(":")[2])
    return launched


def _deepspeed(words: list[str]) -> Launched:
    options, launched = _split(words)
    launched.local_rank = "no_local_rank" not in options
    each = options.get("num_gpus") or options.get("num_accelerators")
    if each:
        launched.ranks = int(each) * int(options.get("num_nodes", "1"))
    elif "include" in options:  # host:0,1@host:2
        launched.ranks = sum(len(host.partition(":")[2].split(",")) for host in options["include"].split("@"))
    return launched


def _accelerate(words: list[str]) -> Launched:
    options, launched = _split(words)
    config = _accelerate_config(options.get("config_file"))
    deepspeed = config.get("deepspeed_config") or {}
    said: dict[str, Any] = {**config, **deepspeed, **options}
    if said.get("num_processes") is not None:
        launched.ranks = int(said["num_processes"])
    uses_deepspeed = "use_deepspeed" in options or config.get("distributed_type") == "DEEPSPEED"
    environment = {"ACCELERATE_MIXED_PRECISION": str(said.get("mixed_precision") or "no").lower()}
    if uses_deepspeed:
        environment |= {
            "ACCELERATE_USE_DEEPSPEED": "true",
            "ACCELERATE_CONFIG_DS_FIELDS": ",".join(
                [*deepspeed, *(["mixed_precision"] * ("mixed_precision" in config))]
            ),
        }
        for key, variable in ACCELERATE_DEEPSPEED.items():
            if said.get(key) is not None:
                environment[variable] = str(said[key]) if key.endswith("_file") else str(said[key]).lower()
    elif "use_fsdp" in options or config.get("distributed_type") == "FSDP":
        environment |= _fsdp({**(config.get("fsdp_config") or {}), **options})
    launched.environment = environment
    return launched


def _fsdp(said: Mapping[str, Any]) -> dict[str, str]:
    """As accelerate hands FSDP's keys to the ranks (accelerate.utils.launch)."""
    environment = {"ACCELERATE_USE_FSDP": "true"}
    for key, value in said.items():
        if key.startswith("fsdp_") and value is not None:
            logical = key == "fsdp_reshard_after_forward" or str(value).lower() in ("true", "false")
            name = key.replace("_layer_cls_to_wrap", "_cls_to_wrap").upper()
            environment[name] = str(value).lower() if logical else str(value)
    return environment


def _fabric(words: list[str]) -> Launched:
    """Lightning's: what `L.Fabric()` takes from its environment where the script does not say."""
    options, launched = _split(words)
    devices, nodes = options.get("devices", "1"), options.get("num_nodes", "1")
    if devices not in ("auto", "-1"):
        each = int(devices) if devices.isdigit() else len(devices.strip("[],").split(","))
        launched.ranks = each * int(nodes)
    said = {"devices": devices, "num_nodes": nodes, "cli_used": "1"}
    said |= {key: options[key] for key in ("accelerator", "strategy", "precision") if key in options}
    launched.environment = {f"LT_{key.upper()}": value for key, value in said.items()}
    return launched


ACCELERATE_DEEPSPEED = {
    "zero_stage": "ACCELERATE_DEEPSPEED_ZERO_STAGE",
    "gradient_accumulation_steps": "ACCELERATE_GRADIENT_ACCUMULATION_STEPS",
    "gradient_clipping": "ACCELERATE_GRADIENT_CLIPPING",
    "offload_optimizer_device": "ACCELERATE_DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE",
    "offload_param_device": "ACCELERATE_DEEPSPEED_OFFLOAD_PARAM_DEVICE",
    "zero3_init_flag": "ACCELERATE_DEEPSPEED_ZERO3_INIT",
    "zero3_save_16bit_model": "ACCELERATE_DEEPSPEED_ZERO3_SAVE_16BIT_MODEL",
    "deepspeed_config_file": "ACCELERATE_DEEPSPEED_CONFIG_FILE",
    "deepspeed_moe_layer_cls_names": "ACCELERATE_DEEPSPEED_MOE_LAYER_CLS_NAMES",
}


def _accelerate_config(file: str | None) -> Mapping[str, Any]:
    if file is None:
        return {}
    try:
        content = yaml.safe_load(Path(file).read_text())
    except (OSError, yaml.YAMLError) as error:
        raise HarnessError(f"accelerate launch --config_file {file}: cannot be read ({error})") from error
    return content if isinstance(content, dict) else {}


def _split(words: list[str]) -> tuple[dict[str, str], Launched]:
    """A launcher's own options, as far as the program, and the program with its arguments.

    An option is followed by its value unless the next word is an option or the program itself: a file that ends in .py
    or is there, or, after `-m`, a module's name.
    """
    options: dict[str, str] = {}
    module, at = False, 0
    while at < len(words):
        word = words[at]
        if word in MODULE_FLAGS:
            module = True
        elif word.startswith("-"):
            name, given, value = word.lstrip("-").partition("=")
            name = name.replace("-", "_")
            follows = words[at + 1] if at + 1 < len(words) else "-"
            if not given and not follows.startswith("-") and not _is_program(follows, module, name):
                value, at = follows, at + 1
            options[name] = value
        elif module:
            return options, Launched(tuple(words[at + 1 :]), module=word)
        else:
            return options, Launched(tuple(words[at + 1 :]), script=Path(word))
        at += 1
    raise HarnessError(
        f"no script among {' '.join(words) or 'nothing'!r}: a launcher's line names a .py file or -m MODULE"
    )


def _is_program(word: str, module: bool, option: str) -> bool:
    if module and option in FLAGS:
        return bool(DOTTED.fullmatch(word))
    return word.endswith(".py") and not option.endswith(("file", "config"))


# Options without a value that may stand before a module's name.
FLAGS = (
    "use_deepspeed",
    "multi_gpu",
    "standalone",
    "no_local_rank",
    "use_env",
    "same_network",
    "debug",
    "quiet",
)
KNOWN = ", ".join(LAUNCHERS[:-1])
_READERS = {"torchrun": _torchrun, "deepspeed": _deepspeed, "accelerate": _accelerate, "fabric": _fabric}
