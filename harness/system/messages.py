"""A pydantic complaint as one sentence with its key."""

from __future__ import annotations

from typing import get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from harness.system.errors import nearest


def first_message(error: ValidationError, model: type[BaseModel]) -> str:
    """The first of pydantic's complaints as one sentence with its key."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return f"{where} is not a key; {nearest(str(first['loc'][-1]), _fields_at(model, first['loc'][:-1]))}"
    given = f" (given: {first['input']!r})" if where and not isinstance(first["input"], dict) else ""
    return of_key(where, first) + given


def of_key(where: str, complaint: ErrorDetails) -> str:
    """A complaint about a key; `where` is empty for one about the whole."""
    if complaint["type"] == "missing":
        return f"{where} is missing; give it"
    message = complaint["msg"].removeprefix("Value error, ")
    return f"{where}: {message}" if where else message


def _fields_at(model: type[BaseModel], path: tuple[int | str, ...]) -> list[str]:
    for part in path:
        field = model.model_fields.get(str(part))
        # Of `Model | None`, too.
        for kind in (field.annotation, *get_args(field.annotation)) if field is not None else ():
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                model = kind
    return list(model.model_fields)
