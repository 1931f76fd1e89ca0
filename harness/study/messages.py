"""A pydantic complaint as one sentence with its key."""

from __future__ import annotations

from pydantic import BaseModel, ValidationError

from harness.system.errors import nearest


def first_message(error: ValidationError, model: type[BaseModel]) -> str:
    """The first of pydantic's complaints as one sentence with its key."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return f"{where} is not a key; {nearest(str(first['loc'][-1]), _fields_at(model, first['loc'][:-1]))}"
    message = first["msg"].removeprefix("Value error, ")
    given = f" (given: {first['input']!r})" if where and not isinstance(first["input"], dict) else ""
    return f"{where + ': ' if where else ''}{message}{given}"


def _fields_at(model: type[BaseModel], path: tuple[int | str, ...]) -> list[str]:
    for part in path:
        field = model.model_fields.get(str(part))
        if (
            field is not None
            and isinstance(field.annotation, type)
            and issubclass(field.annotation, BaseModel)
        ):
            model = field.annotation
    return list(model.model_fields)
