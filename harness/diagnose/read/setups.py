"""One setup from all that is known of a training: its configuration and what that names, its log, the command line.

Every command that judges a configuration reads it here, so that no two of them can contradict each other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

from harness.configuration import (
    Found,
    Release,
    Remark,
    brought_along,
    checked,
    named_release,
    no_zeropp,
    read_arguments,
    read_command,
    read_configuration,
    read_text,
    resolved,
    script_facts,
)
from harness.diagnose.curve import Told
from harness.diagnose.read.log import LOGGED, told_by
from harness.diagnose.setup import Setup, check, judged_as
from harness.study import ModelFile, any_model, parameter_shapes
from harness.system.errors import HarnessError
from harness.variants import installed_release

LOGS = ("", ".log", ".out", ".err", ".txt")


@dataclass(frozen=True, kw_only=True)
class Given:
    """What the command line says of a training; it goes before all else."""

    release: str | None = None
    torch: str | None = None
    world_size: int | None = None
    ranks_per_node: int | None = None
    model: Path | None = None
    sizes: str | None = None
    script: Path | None = None
    trainer_args: str | None = None
    command: str | None = None  # that starts the training


def read_setup(
    config: Path | None,
    given: Given | None = None,
    told: Told | None = None,
    *,
    assume_installed: bool = False,
) -> Setup:
    """What is known of a training. Raises HarnessError naming the file and key.

    `told` is what its log says; with `assume_installed` the installed DeepSpeed is taken where no release is known.
    """
    given, told = given or Given(), told or Told()
    if config and (printed := _printed_by(config)) is not None:
        found = Found(form="log", deepspeed=printed.config)
        told = replace(
            printed, **{key: value for key, value in vars(told).items() if value not in (None, "")}
        )
    else:
        found = read_configuration(config) if config else _named(told)
    if given.command:
        found = found.filled(read_command(given.command))
    if given.trainer_args:
        found = read_arguments(given.trainer_args).filled(found)
    if given.script:
        if not given.script.is_file():
            raise HarnessError(f"--script {given.script}: no such file; give the training script")
        found = found.filled(Found(facts=script_facts(given.script), facts_read=True))
    release = _release(given, found, told, assume_installed)
    world = given.world_size if given.world_size is not None else found.world_size or told.world_size
    model = any_model(given.model) if given.model else None
    raw = found.deepspeed if found.deepspeed is not None else told.config
    try:
        keys, remarks = _keys(raw or {}, found, told, release, world, model)
        setup = Setup(
            release=release.name if release else None,
            config=keys,
            has_config=raw is not None,
            world_size=world,
            ranks_per_node=found.ranks_per_node if given.ranks_per_node is None else given.ranks_per_node,
            numels=_numels(model, given),
            torch=given.torch or found.torch or told.torch,
            transformers=found.transformers or told.transformers,
            facts=found.facts,
            facts_read=found.facts_read,
            remarks=(
                *found.remarks,
                *_said(found, config, given, raw is not None and raw is told.config),
                *remarks,
            ),
            release_note=_note(release),
            release_from=release.origin if release else "",
            release_until=release.until if release else None,
        )
        check(setup)
    except HarnessError as error:
        raise HarnessError(f"{config}: {error}" if config else str(error)) from error
    return setup


def _printed_by(config: Path) -> Told | None:
    """What a log says that is given as the configuration: DeepSpeed prints it when it starts. None for what is none."""
    if config.suffix not in LOGS or not LOGGED.search(text := read_text(config)):
        return None
    told = told_by(text)
    return told if told.config else None


def _named(told: Told) -> Found:
    """The configuration that a log names without printing it, where a trainer brings it along."""
    return (brought_along(told.names_config) if told.names_config and not told.config else None) or Found()


def _keys(
    raw: Mapping[str, Any],
    found: Found,
    told: Told,
    release: Release | None,
    world: int | None,
    model: ModelFile | None,
) -> tuple[dict[str, Any], list[Remark]]:
    """DeepSpeed's keys as it takes them, "auto" filled in where that can be known."""
    taken = checked(raw, release.name if release else None)
    width = _width(model) if model else None
    keys, remarks = resolved(taken.config, found.arguments, world, width)
    lost = {one.key for one in remarks if one.kind == "ignored"} - found.unread
    for path in lost:
        section, _, key = path.rpartition(".")
        keys[section] = {name: value for name, value in keys[section].items() if name != key}
    half = _half(found.arguments) or told.dtype
    if half in ("bf16", "fp16") and not any(name in keys for name in ("bf16", "fp16")):
        keys[half] = {"enabled": True}  # as Accelerate and the Trainer do
    elif told.dtype and (keys.get(told.dtype) or {}).get("enabled") == "auto":
        keys[told.dtype] = {**keys[told.dtype], "enabled": True}
    said = [one for one in remarks if one.key not in found.unread or one.kind != "ignored"]
    return keys, [*taken.remarks, *said]


def _width(model: ModelFile) -> int | None:
    """The hidden size that the Trainer takes bucket sizes from; as it does, also that of the text part."""
    config = model.config.model_dump()
    width = config.get("hidden_size") or (config.get("text_config") or {}).get("hidden_size")
    return width if isinstance(width, int) else None


def _half(arguments: Mapping[str, Any]) -> str | None:
    on = [name for name in ("bf16", "fp16") if str(arguments.get(name, "")).lower() in ("true", "1", "full")]
    return on[0] if on else None


def _release(given: Given, found: Found, told: Told, assume_installed: bool) -> Release | None:
    if given.release:
        return named_release(given.release)
    for text, origin in ((told.release, "log"), (found.release, "script")):
        if text:
            one = named_release(text, "log" if origin == "log" else "script")
            said = f"DeepSpeed {text} is what the {origin} says"
            return replace(one, note=f"{said}; {one.note}" if one.note else said)
    if not assume_installed:
        return None
    if (installed := installed_release()) is None:
        raise HarnessError("DeepSpeed is not installed here; name a release, for example --release 0.13.4")
    note = f"no --release was given: judged is the DeepSpeed installed here, {installed}, not the training's"
    return Release(installed, note, "installed")


def _note(release: Release | None) -> str:
    if release is None:
        return ""
    sentences = (release.note, no_zeropp(release.name) or judged_as(release.name))
    return "; ".join(one for one in sentences if one)


def _said(found: Found, config: Path | None, given: Given, of_log: bool) -> list[Remark]:
    """What was taken from where, for the reader to check."""
    said = []
    if of_log:
        said.append(Remark("assumed", "", "the configuration is the one that the log prints"))
    if config and found.form and found.form != "DeepSpeed configuration":
        ranks = found.world_size and not given.world_size
        of_them = f", {found.world_size} ranks" if ranks else ""
        said.append(
            Remark("assumed", "", f"{config.name} is read as {_article(found.form)} {found.form}{of_them}")
        )
    return said


def _article(words: str) -> str:
    return "an" if words[0].lower() in "aeiou" else "a"


def _numels(model: ModelFile | None, given: Given) -> tuple[int, ...] | None:
    if model and given.sizes:
        raise HarnessError("--model and --sizes both give parameter sizes; give one of them")
    if model:
        return tuple(prod(shape) for _, shape in parameter_shapes(model))
    return parameter_sizes(given.sizes) if given.sizes else None


def parameter_sizes(text: str) -> tuple[int, ...]:
    """Sizes from a text such as `4096x11008,4096`: dimensions joined by x, parameters by commas. HarnessError."""
    try:
        found = tuple(prod(int(n) for n in word.split("x")) for word in text.replace(" ", "").split(","))
    except ValueError as error:
        raise HarnessError(f"--sizes: {text!r} is not a list such as 4096x11008,4096") from error
    if min(found) < 1:
        raise HarnessError(f"--sizes: {text!r} has a parameter without elements")
    return found
