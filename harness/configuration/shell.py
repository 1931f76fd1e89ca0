"""What an sbatch file, a shell script or a command line says of a training: nodes, ranks, configuration, arguments."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from harness.configuration.batch import Job, counted, job_of, started_in
from harness.configuration.facts import facts_of, trainer_facts
from harness.configuration.files import keys_of, kind_of
from harness.configuration.found import Found, whole
from harness.configuration.overrides import with_overrides
from harness.configuration.ranks import ranks_of
from harness.configuration.recipes import Follow, accelerate_keys, named_configuration
from harness.configuration.remarks import Remark
from harness.system.errors import HarnessError

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
    job = job_of(text)
    text = counted(text.replace("\\\n", " "), job)
    variables = _variables(text, job)
    plain = _substituted(text, variables)
    arguments = dict(_arguments(plain))
    written = dict(_here_documents(plain, source))
    ranks, here = ranks_of(plain, arguments, variables, started_in(plain, job), read)
    model = next(
        (str(arguments[key]) for key in ("model_name_or_path", "model", "base_model") if arguments.get(key)),
        None,
    )
    pins = dict(PINNED.findall(plain))
    found = Found(
        form=job.form,
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
            said = True if value is None else value.strip("\"'")
            yield found[1].rpartition(".")[2].replace("-", "_"), said
            if "." in found[1]:  # the actor's, say, of models that have their own
                yield found[1].replace(".", "_").replace("-", "_"), said


def _variables(text: str, job: Job) -> dict[str, str]:
    """Variables that a script sets to what can be read, and those that its scheduler sets."""
    found = job.variables
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
