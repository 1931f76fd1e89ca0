"""The plan of the house: every room has a door and a place in the plan, and nothing grows past what one can read."""

from __future__ import annotations

import ast
import re
import tomllib
from importlib.metadata import distributions
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet

from harness.system.places import REPOSITORY

ROOMS = sorted(
    folder.parent
    for package in ("harness", "analysis")
    for folder in (REPOSITORY / package).rglob("__init__.py")
    if folder.parent.name not in ("harness", "analysis")
)
MODULES = sorted(file for package in ("harness", "analysis") for file in (REPOSITORY / package).rglob("*.py"))
PRIVATE = re.compile(r"torch\._C\b|torch\.utils\._|torch\.cuda\._|torch\.testing\._|distributed_c10d")
LINES = 320  # of a file; around 300, where a natural seam exists
STATEMENT_LINES = 60  # of a function


def relative(path: Path) -> str:
    return path.relative_to(REPOSITORY).as_posix()


@pytest.mark.parametrize("room", ROOMS, ids=relative)
def test_a_rooms_door_says_what_it_is_for(room: Path) -> None:
    assert ast.get_docstring(ast.parse((room / "__init__.py").read_text()))


@pytest.mark.parametrize("room", ROOMS, ids=relative)
def test_a_room_has_its_place_in_the_plan(room: Path) -> None:
    plan = (REPOSITORY / "CONTRIBUTING.md").read_text().split("## Checks")[0]
    assert relative(room).replace("/", ".") in plan or f"{room.name}/" in plan


def test_private_names_of_torch_are_met_in_one_module() -> None:
    found = {relative(module) for module in MODULES if PRIVATE.search(_code(module))}
    assert found == {"harness/device/torch_private.py"}


def _code(module: Path) -> str:
    """The module without comments and docstrings."""
    tree = ast.parse(module.read_text())
    texts = [
        node for node in ast.walk(tree) if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    ]
    for node in texts:
        node.value = ast.Constant(0)
    return ast.unparse(tree)


@pytest.mark.parametrize("module", MODULES, ids=relative)
def test_a_module_says_what_it_is_for_and_can_be_read(module: Path) -> None:
    tree = ast.parse(module.read_text())
    assert ast.get_docstring(tree)
    assert len(module.read_text().splitlines()) <= LINES
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    long = {node.name: (node.end_lineno or 0) - node.lineno + 1 for node in functions}
    assert {name: lines for name, lines in long.items() if lines > STATEMENT_LINES} == {}


def test_every_package_of_the_environment_runs_on_the_oldest_python_that_is_promised() -> None:
    promised = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["requires-python"]
    oldest = f"{promised.removeprefix('>=')}.0"
    asked = {item.name: item.metadata.get("Requires-Python") or "" for item in distributions()}
    assert {name: python for name, python in asked.items() if oldest not in SpecifierSet(python)} == {}
