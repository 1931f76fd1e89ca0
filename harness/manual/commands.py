"""Every command with its arguments and options, as its own --help has them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import typer

from harness.cli.main import app
from harness.manual.keys import GENERATED, cell, code


def commands() -> str:
    """The page of all commands."""
    parts = ["# Commands", GENERATED.format(source="the commands' --help")]
    parts.append(
        "Every command is safe to repeat, and ends with 0 (fine), 1 (a run failed) or 2 (bad input, told in one "
        "sentence). Where STUDY is asked for, a study file and its results folder do alike."
    )
    return "\n\n".join([*parts, *_sections(typer.main.get_command(app), "hpz", None)])


def _sections(command: Any, path: str, parent: Any) -> Iterator[str]:
    """`command` is one of click's, which typer brings along itself or has from the package, by its release."""
    context = command.context_class(command, info_name=path.split()[-1], parent=parent)
    children = getattr(command, "commands", {})
    if parent is not None:
        yield _section(command, path, context, bool(children))
    for name, child in children.items():
        yield from _sections(child, f"{path} {name}", context)


def _section(command: Any, path: str, context: Any, group: bool) -> str:
    usage = " ".join([path, *command.collect_usage_pieces(context)])
    help_text = "\n\n".join(" ".join(part.split()) for part in (command.help or "").split("\n\n"))
    parts = [f"## {path}" if path.count(" ") == 1 else f"### {path}", help_text]
    rows = [row for parameter in command.params if (row := _row(parameter, context))]
    if not group:
        parts.append(f"```text\n{usage}\n```")
    if rows:
        parts.append("\n".join(["| | what it is | default |", "|---|---|---|", *rows]))
    return "\n\n".join(parts)


def _row(parameter: Any, context: Any) -> str | None:
    """Name, meaning and default of one argument or option; None for --help and what is hidden."""
    record = parameter.get_help_record(context)
    if record is None or "--help" in parameter.opts:
        return None
    name, said = record
    text, _, default = said.rpartition("  [")
    if not text:
        text, default = said, ""
    return f"| `{code(name)}` | {cell(text)} | {cell(default.rstrip(']'))} |"
