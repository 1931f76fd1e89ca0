"""What an sbatch file, a shell script or a command line says of a training: nodes, ranks, configuration, arguments."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Any

from harness.configuration.facts import facts_of, trainer_facts
from harness.configuration.files import keys_of, kind_of
from harness.configuration.found import Found, per_node, whole
from harness.configuration.overrides import with_overrides
from harness.configuration.recipes import Follow, accelerate_keys, named_configuration
from harness.configuration.remarks import Remark
from harness.system.errors import HarnessError

SBATCH = re.compile(r"^\s*#SBATCH\s+(.+)$", re.MULTILINE)
ASSIGNED = re.compile(
    r"(?<![\w.$-])([A-Za-z_]\w*)=(\"[^\"\n]*\"|'[^'\n]*'|\$\(\([^)]*\)\)|(?:\$\(\([^)]*\)\)|[^\s;#&|])*)"
)
HERE = re.compile(r"<<-?\s*(['\"]?)(\w+)\1([^\n]*)\n(.*?)\n\s*\2\s*$", re.DOTALL | re.MULTILINE)
HERE_FILE = re.compile(r">\s*(\S+)")
VARIABLE = re.compile(r"\$\{(\w+)(?::?[-=]([^}]*))?\}|\$(\w+)")
ARITHMETIC = re.compile(r"\$\(\(\s*([\d\s*+/()-]+)\s*\)\)")
PINNED = re.compile(r"\b(deepspeed|torch|transformers)\s*==\s*([0-9][\w.+]*)")
# In a quoted command, too, as that of `bash -c`.
OPTION = re.compile(
    r"(?<![\w-])--([A-Za-z][\w.-]*)(?:=(\"[^\"]*\"|'[^']*'|[^\s'\"]*)|\s+(\"[^\"]*\"|'[^']*'|(?!-)[^\s'\";&|)]+))?"
)
SED = re.compile(r"s([/|#@])([^/|#@]+)\1([^/|#@]*)\1")
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
NODES = ("nnodes", "num_nodes", "num_machines", "NNODES")
PER_NODE = ("nproc_per_node", "num_gpus", "NPROC_PER_NODE", "GPUS_PER_NODE")
TOTAL = ("num_processes", "world_size")
SIZES = (
    "zero_hpz_partition_size",
    "zpg",
)  # hpZ as an argument, as ms-swift, open-instruct and OpenRLHF have it


def from_shell(
    text: str,
    source: str,
    follow: Follow,
    script: Callable[[str, Mapping[str, Any]], Found | None],
    read: Callable[[str], str],
) -> Found:
    """What a shell script says. `follow` reads a configuration that it names, `script` a Python file that it starts,
    and `read` gives the text of a file.

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
    scripts = [
        said for name in started if name.endswith(".py") and (said := script(name, arguments)) is not None
    ]
    if (made := _made_by_sed(plain, arguments, read)) is not None:
        written = {made[0]: Found(deepspeed=keys_of(made[1], source, []))}
    recipes = [name for name in started if not name.endswith(".py")]
    config = with_overrides(_of_files(plain, arguments, recipes, written, scripts, follow), plain)
    if config is None:
        raise HarnessError(
            f"{source}: names no DeepSpeed configuration (--deepspeed, --deepspeed_config, --config_file) "
            "that can be read; give that file as --config"
        )
    found = found.filled(_with_size(config, arguments))
    for said in scripts:
        found = found.filled(said)
    return found


def _of_files(
    plain: str,
    arguments: Mapping[str, Any],
    recipes: list[str],
    written: Mapping[str, Found],
    scripts: list[Found],
    follow: Follow,
) -> Found | None:
    """The configuration of the files that a script names, or of its arguments; None where the command says enough."""
    try:
        return _configuration(arguments, recipes, written, follow) or next(
            (said for said in scripts if said.deepspeed is not None), _by_arguments(arguments)
        )
    except HarnessError:
        if with_overrides(None, plain) is None:
            raise
        return None


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
            return named_configuration(name, follow)
        except HarnessError as error:
            failed = failed or error
    if failed is not None:
        raise failed
    return None


def _by_arguments(arguments: Mapping[str, Any]) -> Found | None:
    """ZeRO as arguments of Accelerate's launcher or of OpenRLHF; None where there are none."""
    stage = whole(arguments.get("zero_stage"))
    if stage is None:
        return None
    named = arguments.get("mixed_precision") or arguments.get("param_dtype")
    dtype = str(named or ("bf16" if arguments.get("bf16") else "no"))
    return Found(deepspeed=accelerate_keys({**arguments, "zero_stage": stage}, dtype))


def _with_size(config: Found, arguments: Mapping[str, Any]) -> Found:
    """With hpZ where an argument switches it on and the file does not say."""
    size = next((number for name in SIZES if (number := whole(arguments.get(name)))), None)
    keys = config.deepspeed or {}
    zero = keys.get("zero_optimization")
    if size is None or not isinstance(zero, Mapping) or "zero_hpz_partition_size" in zero:
        return config
    said = Remark(
        "assumed", "zero_optimization.zero_hpz_partition_size", f"hpZ is set to {size} by an argument"
    )
    return replace(
        config, deepspeed={**keys, "zero_optimization": {**zero, "zero_hpz_partition_size": size}}
    ).saying(said)


def arguments_in(line: str) -> dict[str, Any]:
    """The options of a command line: `--bf16 True --max_steps=10`; a bare flag is true. Raises HarnessError."""
    return dict(_arguments(line.replace("\\\n", " ")))


def _arguments(text: str) -> Iterator[tuple[str, Any]]:
    for line in text.splitlines():
        if line.lstrip().startswith("#"):
            continue
        for found in OPTION.finditer(line):
            value = found[2] if found[2] is not None else found[3]
            yield found[1].rpartition(".")[2].replace("-", "_"), True if value is None else value.strip("\"'")


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


def _made_by_sed(
    plain: str, arguments: Mapping[str, Any], read: Callable[[str], str]
) -> tuple[str, str] | None:
    """Name and text of the configuration that a script makes of a template: `sed "s/MICRO/4/" template > file`."""
    for name in (str(arguments[key]) for key in CONFIG if isinstance(arguments.get(key), str)):
        line = next((one for one in plain.splitlines() if SED.search(one) and f"> {name}" in one), None)
        template = re.search(r"(?<![\w./-])[\w./-]+\.json(?![\w.])", line) if line else None
        if line is None or template is None or template[0] == name:
            continue
        try:
            text = read(template[0])
        except HarnessError:
            continue
        for _, old, new in SED.findall(line):
            text = text.replace(old, new)
        return name, text
    return None


def _ranks(
    arguments: Mapping[str, Any], variables: Mapping[str, str], batch: Mapping[str, str]
) -> tuple[int | None, int | None]:
    """World size and ranks on a node, as far as they stand there: of the launcher, else of the job."""

    def first(names: tuple[str, ...], *places: Mapping[str, Any]) -> int | None:
        return next(
            (number for place in places for name in names if (number := whole(place.get(name)))), None
        )

    nodes = first(NODES, arguments, variables) or whole(batch.get("nodes", "").partition("-")[0])
    here, total = first(PER_NODE, arguments, variables), first(TOTAL, arguments)
    whole_node = total == (_gpus(batch) or whole(arguments.get("gpus"))) and "num_machines" not in arguments
    if total and nodes and nodes > 1 and whole_node:
        return None, total  # the launcher does not say whether those are the ranks of one node or of all
    if total and (nodes or not here):
        return total, per_node(total, nodes) or here
    if here is None and (visible := variables.get("CUDA_VISIBLE_DEVICES")):
        here = len([one for one in visible.split(",") if one.strip().isdigit()]) or None
    if here:
        return (nodes * here, here) if nodes else (None if batch or "hostfile" in arguments else here, here)
    tasks, gpus = (
        first(("ntasks_per_node",), batch, arguments),
        _gpus(batch) or first(("gpus_per_node",), arguments),
    )
    here = tasks if tasks and tasks > 1 else gpus or tasks  # one task a node starts a rank a GPU
    if here and nodes:
        return nodes * here, here
    return whole(batch.get("ntasks")), here
