"""One reader for every file that holds or names a DeepSpeed configuration, following what it names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from harness.configuration.files import HINT, Kind, keys_of, kind_of, nested, read_text
from harness.configuration.found import Found, whole
from harness.configuration.jobs import LAUNCHED, command_of
from harness.configuration.lightning import from_lightning, trainer_of
from harness.configuration.python_script import facts_in, from_python
from harness.configuration.recipes import Follow, facts_of_config, from_accelerate, from_axolotl, from_trainer
from harness.configuration.remarks import Remark
from harness.configuration.shell import arguments_in, from_shell
from harness.system.errors import HarnessError

DEEP = 4  # files that name each other; more is a circle
PARENTS = 5  # folders above a file, in which what it names is looked for: recipes name files from their project's root
FENCED = re.compile(r"^```[^\n]*\n(.*?)^```", re.DOTALL | re.MULTILINE)
COMMAND = Path("the command")  # in the place of the file that it is not; what it names lies where one stands
SHELL = (".sh", ".bash", ".sbatch", ".slurm", ".job", ".sub", ".zsh")


def read_configuration(file: Path, depth: int = 0) -> Found:
    """What a file says of a training. Raises HarnessError naming the file, and what it is where it is none."""
    text = read_text(file)
    suffix = file.suffix.lower()

    follow = _follow(file, depth)
    if suffix == ".py":
        return from_python(text, str(file), follow)
    if suffix in SHELL or text.startswith("#!"):
        return _of_shell(text, file, follow, depth)
    if blocks := FENCED.findall(text):
        return _of_page(blocks, file, depth)
    remarks: list[Remark] = []
    return _of_keys(keys_of(text, str(file), remarks), file, follow, remarks)


def _of_shell(text: str, file: Path, follow: Follow, depth: int = 0) -> Found:
    return from_shell(
        text,
        str(file),
        follow,
        lambda name, given: _script(name, file, depth, given),
        lambda name: read_text(_named(name, file)),
    )


def read_command(line: str) -> Found:
    """What a command that starts a training says of it, as a script of that one line does. Raises HarnessError."""
    return _of_shell(line, COMMAND, _follow(COMMAND, 0))


def _of_page(blocks: list[str], file: Path, depth: int) -> Found:
    """Of a page or a post the blocks of code together: a configuration, and what training was started with."""
    read, follow = list[Found](), _follow(file, depth)
    failed: HarnessError | None = None

    def if_here(name: str) -> Found:
        try:
            return follow(name)
        except HarnessError:
            return Found()  # the configuration that the command names is likely the block beside it

    for block in blocks:
        remarks: list[Remark] = []
        try:
            if LAUNCHED.search(block):
                read.append(_of_shell(block, file, if_here, depth))
            else:
                read.append(_of_keys(keys_of(block, str(file), remarks), file, follow, remarks))
        except HarnessError as error:
            failed = failed or error
    configs = [one for one in read if one.deepspeed is not None]
    if not configs:
        raise failed or HarnessError(f"{file}: holds no configuration; {HINT}")
    chosen = next((one for one in configs if _sets_hpz(one)), configs[0])
    found = chosen
    for one in read:
        found = found.filled(one) if one.deepspeed in (None, chosen.deepspeed) else found
    if all(one.deepspeed == chosen.deepspeed for one in configs):
        return found
    which = (
        f"{configs.index(chosen) + 1} of {len(configs)}{', the first with hpZ' if _sets_hpz(chosen) else ''}"
    )
    return found.saying(Remark("assumed", "", f"{file.name} holds several configurations; read is {which}"))


def _sets_hpz(found: Found) -> bool:
    zero = (found.deepspeed or {}).get("zero_optimization")
    return isinstance(zero, Mapping) and (whole(zero.get("zero_hpz_partition_size")) or 1) > 1


def _of_keys(keys: dict[str, Any], file: Path, follow: Follow, remarks: list[Remark]) -> Found:
    kind = kind_of(keys)
    if kind == "deepspeed" or kind == "empty":
        return Found(
            form="DeepSpeed configuration",
            deepspeed=keys,
            facts=facts_of_config(keys),
            remarks=tuple(remarks),
        )
    if kind in ("other", "nested", "trainer") and (trainer := trainer_of(keys)) is not None:
        return from_lightning(trainer, str(file), follow)
    if kind == "accelerate":
        return from_accelerate(keys, str(file), follow)
    if kind == "axolotl":
        return from_axolotl(keys, str(file), follow)
    if kind == "llama-factory":
        return from_trainer(keys, str(file), follow, "LLaMA-Factory recipe")
    if kind == "trainer":
        return from_trainer(keys, str(file), follow, "recipe of Hugging Face's Trainer")
    if kind == "nested" and (inner := nested(keys)) is not None:
        text = f"{file.name} is no DeepSpeed configuration itself; read is the one inside it"
        return Found(
            form="file with a DeepSpeed configuration inside",
            deepspeed=inner,
            facts=facts_of_config(inner),
            remarks=(Remark("assumed", "", text),),
        )
    if kind == "other" and (command := command_of(keys)) is not None:
        return replace(_of_shell(command, file, follow), form="description of a job")
    raise HarnessError(f"{file}: {what_it_is(kind, list(map(str, keys)))}; {HINT}")


def _follow(file: Path, depth: int) -> Follow:
    """Reads what a file names."""

    def follow(name: str) -> Found:
        if depth >= DEEP:
            raise HarnessError(f"{file}: names {name}, and so on in a circle; {HINT}")
        return read_configuration(_named(name, file), depth + 1)

    return follow


def what_it_is(kind: Kind, keys: list[str]) -> str:
    """What a file is that is no DeepSpeed configuration, in words."""
    if kind == "model":
        return "is a model's config.json, no DeepSpeed configuration (it goes to --model)"
    if "matrix" in keys and "baseline" in keys:
        return "is a study of this project, no DeepSpeed configuration (hpz plan and hpz run take it)"
    some = ", ".join(keys[:5]) + (", …" if len(keys) > 5 else "")
    return f"is no DeepSpeed configuration: none of its keys ({some}) is one of DeepSpeed's"


def read_arguments(given: str) -> Found:
    """The Trainer's arguments from a command line, or from a recipe or script that holds them. Raises HarnessError."""
    file = Path(given)
    if "--" in given or not file.suffix:
        return Found(arguments=_checked(arguments_in(given), given))
    text = read_text(file)
    if file.suffix == ".py" or file.suffix in SHELL or text.startswith("#!"):
        found = _without_config(file, text)
        return Found(
            arguments=_checked(dict(found.arguments), given),
            model=found.model,
            facts=found.facts,
            world_size=found.world_size,
            ranks_per_node=found.ranks_per_node,
        )
    return Found(arguments=_checked(keys_of(text, given, []), given))


def _without_config(file: Path, text: str) -> Found:
    def nothing(_: str) -> Found:
        return Found(deepspeed={})

    if file.suffix == ".py":
        return from_python(text, str(file), nothing)
    return from_shell(text, str(file), nothing, lambda _, __: Found(deepspeed={}), lambda _: "{}")


def _checked(arguments: dict[str, object], given: str) -> dict[str, object]:
    if not arguments:
        raise HarnessError(f"--trainer-args: {given!r} holds no arguments such as --bf16 True")
    return arguments


def _script(name: str, beside: Path, depth: int, arguments: Mapping[str, Any]) -> Found | None:
    """What a Python file says that a shell script starts; None where it is not here."""
    try:
        file = _named(name, beside)
    except HarnessError:
        return None
    try:
        return from_python(read_text(file), str(file), _follow(file, depth + 1), arguments)
    except HarnessError:
        return Found(facts=script_facts(file), facts_read=True)


def script_facts(file: Path) -> frozenset[str]:
    """The facts that a training script shows, whether it holds a configuration or not."""
    return facts_in(read_text(file))


def _named(name: str, beside: Path) -> Path:
    """The file that a recipe names: relative to it, to a folder above it, or to here. Raises HarnessError."""
    wanted = Path(name).expanduser()
    if wanted.is_absolute() and wanted.is_file():
        return wanted
    # A bare name lies beside; one with a folder in it may be meant from the root of a project.
    above = list(beside.resolve().parents)[1:PARENTS] if wanted.parent != Path() else []
    folders = [] if wanted.is_absolute() else [beside.resolve().parent, *above, Path.cwd()]
    places = [*(folder / wanted for folder in folders), beside.parent / wanted.name]
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        raise HarnessError(
            f"{beside}: names {name}, which is not here; put it beside, or give that file as --config"
        )
    return found
