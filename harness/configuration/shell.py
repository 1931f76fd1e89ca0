"""What an sbatch file, a shell script or a command line says of a training: nodes, ranks, configuration, arguments."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from typing import Any

from harness.configuration.facts import facts_of, trainer_facts
from harness.configuration.files import keys_of, kind_of
from harness.configuration.found import Found, per_node, whole
from harness.configuration.recipes import Follow, named_configuration
from harness.system.errors import HarnessError

SBATCH = re.compile(r"^\s*#SBATCH\s+(.+)$", re.MULTILINE)
ASSIGNED = re.compile(r"(?<![\w.$-])([A-Za-z_]\w*)=(\"[^\"\n]*\"|'[^'\n]*'|\$\(\([^)]*\)\)|[^\s;#&|]*)")
HERE = re.compile(r"<<-?\s*(['\"]?)(\w+)\1([^\n]*)\n(.*?)\n\s*\2\s*$", re.DOTALL | re.MULTILINE)
HERE_FILE = re.compile(r">\s*(\S+)")
VARIABLE = re.compile(r"\$\{(\w+)(?::?[-=]([^}]*))?\}|\$(\w+)")
ARITHMETIC = re.compile(r"\$\(\(\s*([\d\s*+/()-]+)\s*\)\)")
PINNED = re.compile(r"\b(deepspeed|torch|transformers)\s*==\s*([0-9][\w.+]*)")
STARTED = re.compile(r"(?<![\w./-])([\w./-]+\.(?:py|ya?ml))(?![\w.])")
LONG = {"-N": "nodes", "-n": "ntasks", "-G": "gpus"}
CONFIG = (
    "deepspeed",
    "deepspeed_config",
    "deepspeed_config_file",
    "ds_config",
    "hf_ds_config",
    "ds_config_path",
    "deepspeed_path",
)
RECIPE = ("config_file", "config")
NODES = ("nnodes", "num_nodes", "num_machines", "NNODES", "WORLD_NODES")
PER_NODE = (
    "nproc_per_node",
    "num_gpus",
    "nproc-per-node",
    "ntasks_per_node",
    "gpus_per_node",
    "NPROC_PER_NODE",
    "GPUS_PER_NODE",
)
TOTAL = ("num_processes", "world_size", "WORLD_SIZE", "ntasks")


def from_shell(text: str, source: str, follow: Follow, script: Callable[[str], Found | None]) -> Found:
    """What a shell script says. `follow` reads a configuration that it names, `script` a Python file that it starts.

    Raises HarnessError where it names no configuration at all.
    """
    text = text.replace("\\\n", " ")
    batch = _batch(text)
    variables = _variables(text, batch)
    plain = _substituted(text, variables)
    arguments = dict(_arguments(plain))
    written = dict(_here_documents(plain, source))
    ranks, here = _ranks(arguments, variables, batch)
    model = next(
        (str(arguments[key]) for key in ("model_name_or_path", "model", "base_model") if arguments.get(key)),
        None,
    )
    pins = dict(PINNED.findall(plain))
    found = Found(
        form="sbatch file" if batch else "shell script",
        arguments=arguments,
        world_size=ranks,
        ranks_per_node=here,
        release=pins.get("deepspeed"),
        torch=pins.get("torch"),
        transformers=pins.get("transformers"),
        model=model,
        facts=facts_of(arguments, model)
        | (trainer_facts(model) if "per_device_train_batch_size" in arguments else frozenset()),
    )
    started = list(dict.fromkeys(STARTED.findall(plain)))
    scripts = [said for name in started if name.endswith(".py") and (said := script(name)) is not None]
    recipes = [name for name in started if not name.endswith(".py")]
    config = _configuration(arguments, recipes, written, follow) or next(
        (said for said in scripts if said.deepspeed is not None), None
    )
    if config is None:
        raise HarnessError(
            f"{source}: names no DeepSpeed configuration (--deepspeed, --deepspeed_config, --config_file) "
            "that can be read; give that file as --config"
        )
    found = found.filled(config)
    for said in scripts:
        found = found.filled(said)
    return found


def _configuration(
    arguments: Mapping[str, Any], recipes: list[str], written: Mapping[str, Found], follow: Follow
) -> Found | None:
    """The configuration that a script names, or writes itself; None where there is neither."""
    named = [str(arguments[key]) for key in (*CONFIG, *RECIPE) if isinstance(arguments.get(key), str)]
    here = [name for name in named if name in written] or list(written)
    if here:
        return written[here[0]]
    failed: HarnessError | None = None
    for name in [*named, *recipes]:
        try:
            return named_configuration(name, arguments, follow)
        except HarnessError as error:
            failed = failed or error
    if failed is not None:
        raise failed
    return None


def arguments_in(line: str) -> dict[str, Any]:
    """The options of a command line: `--bf16 True --max_steps=10`; a bare flag is true. Raises HarnessError."""
    return dict(_arguments(line.replace("\\\n", " ")))


def _arguments(text: str) -> Iterator[tuple[str, Any]]:
    for line in text.splitlines():
        if "--" not in line or line.lstrip().startswith("#"):
            continue
        try:
            words = shlex.split(line, comments=True)
        except ValueError:
            words = line.split()
        for index, word in enumerate(words):
            if not word.startswith("--") or len(word) < 3:
                continue
            name, sign, value = word[2:].partition("=")
            after = words[index + 1] if index + 1 < len(words) else "--"
            given: Any = value if sign else True if after.startswith("--") else after
            yield name.replace("-", "_"), given


def _batch(text: str) -> dict[str, str]:
    """Options of #SBATCH lines, by their long names."""
    found: dict[str, str] = {}
    for line in SBATCH.findall(text):
        words = line.split("#")[0].replace("=", " ").split()
        for name, value in pairwise(words):
            if name.startswith("-"):
                found[LONG.get(name, name.lstrip("-").replace("-", "_"))] = value
    return found


def _gpus(batch: Mapping[str, str]) -> int | None:
    """GPUs on a node that a job asks for: --gres=gpu:a100:8, --gpus-per-node=8."""
    for name in ("gpus_per_node", "gres", "gpus_per_task"):
        if name in batch and (name != "gres" or batch[name].startswith("gpu")):
            return whole(batch[name].split(",")[0].rpartition(":")[2])
    return None


def _variables(text: str, batch: Mapping[str, str]) -> dict[str, str]:
    """Variables that a script sets to what can be read, and those that SLURM sets."""
    nodes, tasks = (
        batch.get("nodes", "").partition("-")[0],
        batch.get("ntasks_per_node", "").partition("(")[0],
    )
    found = {"SLURM_NNODES": nodes, "SLURM_JOB_NUM_NODES": nodes, "SLURM_NTASKS_PER_NODE": tasks}
    found["SLURM_GPUS_ON_NODE"] = str(_gpus(batch) or "")
    if whole(nodes) and whole(tasks):
        found["SLURM_NTASKS"] = str(int(nodes) * int(tasks))
    found = {name: value for name, value in found.items() if value}
    for name, value in ASSIGNED.findall(text):
        found[name] = _substituted(value.strip("\"'"), found)
    return found


def _substituted(text: str, variables: Mapping[str, str]) -> str:
    """Text with variables and sums put in where they are known."""

    def put(match: re.Match[str]) -> str:
        name, default = match[1] or match[3], match[2]
        return variables.get(name, default if default is not None else match[0])

    for _ in range(3):
        text = VARIABLE.sub(put, text)
        text = ARITHMETIC.sub(
            lambda sums: _sum(sums[1]),
            re.sub(r"\$\(\(([^)]*)\)\)", lambda m: "$((" + _named(m[1], variables) + "))", text),
        )
    return text


def _named(expression: str, variables: Mapping[str, str]) -> str:
    """In a sum, variables stand without a sign."""
    return re.sub(r"[A-Za-z_]\w*", lambda word: variables.get(word[0], word[0]), expression)


def _sum(expression: str) -> str:
    """A product or quotient of whole numbers."""
    total, sign = 1, "*"
    for word in re.findall(r"\d+|[*/]", expression):
        if word in "*/":
            sign = word
        else:
            total = total * int(word) if sign == "*" else total // max(int(word), 1)
    return str(total) if not re.search(r"[+-]", expression) else expression


def _here_documents(text: str, source: str) -> Iterator[tuple[str, Found]]:
    """DeepSpeed configurations that a script writes itself, by the file that it writes."""
    for found in HERE.finditer(text):
        line = text[: found.start()].rpartition("\n")[2] + found[3]
        named = HERE_FILE.search(line)
        try:
            keys = keys_of(found[4], source, [])
        except HarnessError:
            continue
        if kind_of(keys) == "deepspeed":
            yield (named[1].strip("\"'") if named else ""), Found(deepspeed=keys)


def _ranks(
    arguments: Mapping[str, Any], variables: Mapping[str, str], batch: Mapping[str, str]
) -> tuple[int | None, int | None]:
    """World size and ranks on a node, as far as they stand there."""

    def first(names: tuple[str, ...], *places: Mapping[str, Any]) -> int | None:
        return next(
            (number for place in places for name in names if (number := whole(place.get(name)))), None
        )

    nodes = first(NODES, arguments, variables) or whole(batch.get("nodes", "").partition("-")[0])
    here = first(PER_NODE, arguments, variables) or _gpus(batch) or whole(batch.get("ntasks_per_node"))
    if here is None and (visible := variables.get("CUDA_VISIBLE_DEVICES")):
        here = len([one for one in visible.split(",") if one.strip().isdigit()]) or None
    total = first(TOTAL, arguments, variables) or whole(batch.get("ntasks"))
    if here and nodes:
        return nodes * here, here
    if total:
        return total, here or per_node(total, nodes)
    launched = any(name in arguments for name in (*PER_NODE, *NODES)) or bool(
        variables.get("CUDA_VISIBLE_DEVICES")
    )
    return (here, here) if here and launched and not batch else (None, here)
