"""Tables of keys from the records that read them: name, type, default, and the comment that stands at each field.

A record says of each key what it is in a comment behind it or above it, or in a docstring below it; the reference takes
that, so that it is written once.
"""

from __future__ import annotations

import ast
import inspect
import io
import re
import textwrap
import tokenize
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

GENERATED = "*Generated from {source} by `python -m harness.manual`; a test holds the two equal.*"
HEAD = "| key | what it is | type | default |\n|---|---|---|---|"


def record_section(name: str, model: type[BaseModel]) -> str:
    """Heading, docstring and keys of one part of a file."""
    return "\n\n".join([f"## {name}", inspect.cleandoc(model.__doc__ or ""), keys_table(model)])


def keys_table(model: type[BaseModel], without: Sequence[str] = ()) -> str:
    """The keys of a pydantic record as a table."""
    said = comments(model)
    rows = [
        _row(name, said.get(name, ""), field.annotation, _default(field.default, field.default_factory))
        for name, field in model.model_fields.items()
        if name not in without
    ]
    return "\n".join([HEAD, *rows])


def fields_table(record: type[Any]) -> str:
    """The fields of a dataclass as a table, without defaults."""
    said = comments(record)
    rows = [
        f"| `{name}` | {cell(said.get(name, ''))} | {cell(str(kind))} |"
        for name, kind in record.__annotations__.items()
    ]
    return "\n".join(["| key | what it is | type |", "|---|---|---|", *rows])


def comments(record: type[Any]) -> dict[str, str]:
    """What a class says of each of its fields, in comments and docstrings at them."""
    source = textwrap.dedent(inspect.getsource(record))
    body = ast.parse(source).body[0]
    assert isinstance(body, ast.ClassDef)
    by_line = {
        token.start[0]: token.string.lstrip("# ")
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    }
    own_lines = {
        number for number, line in enumerate(source.splitlines(), 1) if line.lstrip().startswith("#")
    }
    found = {}
    for statement, after in zip(body.body, [*body.body[1:], None], strict=True):
        if not isinstance(statement, ast.AnnAssign) or not isinstance(statement.target, ast.Name):
            continue
        lines = range(statement.lineno, (statement.end_lineno or 0) + 1)
        above = statement.lineno - 1
        text = [by_line[above]] if above in own_lines else []
        text += [by_line[line] for line in lines if line in by_line]
        if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
            text.append(str(after.value.value))
        found[statement.target.id] = "; ".join(text)
    return found


def cell(text: str) -> str:
    """Text as it may stand in a cell of a table."""
    return code(text).replace("<", "&lt;")


def code(text: str) -> str:
    """The same between backquotes."""
    return " ".join(text.split()).replace("|", "\\|")


def _row(name: str, said: str, annotation: Any, default: str) -> str:
    return f"| `{name}` | {cell(said)} | {cell(_type(annotation))} | {cell(default)} |"


def _type(annotation: Any) -> str:
    """`str | None` as `str`, literals as their values, records by their name."""
    text = (
        annotation.__name__
        if isinstance(annotation, type) and not getattr(annotation, "__args__", ())
        else str(annotation)
    )
    text = re.sub(r"\b(?:typing|collections\.abc)\.", "", text)
    text = re.sub(r"\b(?:harness|analysis)(?:\.\w+)+\.(\w+)", r"\1", text)
    text = re.sub(r"Literal\[([^]]*)\]", lambda match: match[1].replace("'", "").replace(", ", " or "), text)
    text = re.sub(r"Optional\[(.*)\]", r"\1", text).replace(" | None", "")
    text = text.replace("tuple[str, ...]", "list of str").replace("dict[str, Any]", "mapping")
    return text.removeprefix("<class '").removesuffix("'>")


def _default(value: Any, factory: Any) -> str:
    if factory is not None:
        value = factory()
    if value is PydanticUndefined:
        return "required"
    if value is None or isinstance(value, BaseModel) or value in ((), {}, [], ""):
        return ""
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"
