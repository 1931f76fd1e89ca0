"""The reference is what the code says today; each block that a test cannot run names only what there is."""

from __future__ import annotations

import ast
import re
import textwrap
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from harness.cli.main import app
from harness.manual import pages
from harness.system.places import REPOSITORY
from tests.blocks import PAGES, SHELL, Block, blocks, commands

REFERENCE = REPOSITORY / "docs" / "reference"
MADE = pages()
BLOCKS = [block for page in PAGES for block in blocks(page)]
IN_THE_CLONE = (
    "experiments",
    "slurm",
    "patches",
    "results/reference",
    "docs",
    "tests",
    "harness",
    "analysis",
)
RULES = re.findall(r"^([a-z][a-z ]*):(?!=)", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)
TARGETS = {target for rule in RULES for target in rule.split()}


@pytest.mark.parametrize("name", MADE)
def test_a_generated_page_is_current(name: str) -> None:
    assert (REFERENCE / name).read_text() == MADE[name], "python -m harness.manual"


def test_every_command_option_and_key_is_said_what_it_is() -> None:
    texts = (MADE["commands.md"], MADE["study.md"], MADE["profile.md"])
    rows = [row for text in texts for row in text.splitlines() if row.startswith("| `")]
    assert [row for row in rows if re.match(r"\| `[^|]*` \|\s*\|", row)] == []


@pytest.mark.parametrize(
    "block", [block for block in BLOCKS if block.language in SHELL], ids=lambda b: b.where
)
def test_a_shell_block_names_commands_options_and_files_that_there_are(block: Block) -> None:
    for words in commands(block.text):
        if words[0] == "hpz":
            _parsed(words[1:])
        if words[0] == "make":
            assert {word for word in words[1:] if "=" not in word} <= TARGETS
        for word in words if "# with files of yours" not in block.text else ():
            if word.startswith(tuple(f"{name}/" for name in IN_THE_CLONE)) and "*" not in word:
                assert (REPOSITORY / word).exists(), word


@pytest.mark.parametrize(
    "block",
    [block for block in BLOCKS if block.language in ("python", "yaml", "json")],
    ids=lambda b: b.where,
)
def test_a_block_of_python_yaml_or_json_can_be_read(block: Block) -> None:
    text = textwrap.dedent(block.text)
    if block.language == "python":
        ast.parse(text)
    else:
        yaml.safe_load(text)


def _parsed(words: list[str]) -> None:
    """Read a line of hpz as typer would, without running it. Fails where it would say that it does not know a word."""
    command: Any = typer.main.get_command(app)
    context = None
    name = "hpz"
    while True:
        context = command.make_context(name, list(words), parent=context, resilient_parsing=False)
        if not getattr(command, "commands", None):
            return
        rest = [*context._protected_args, *context.args]
        if not rest:
            return
        name, command, words = command.resolve_command(context, rest)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(REPOSITORY).as_posix())
def test_a_command_inside_a_sentence_is_one_that_there_is(page: Path) -> None:
    command: Any = typer.main.get_command(app)
    for verb in re.findall(r"`hpz ([a-z]+)[^`]*`", page.read_text()):
        assert verb in command.commands, f"{page}: hpz {verb}"
