"""`model: {hf: NAME, folder or config.json}` in a study: a readable name in its place, and the model under `models`."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from harness.study.hugging_face import model_content, model_name, toy_name
from harness.study.models import Scale
from harness.study.records import Frozen
from harness.system.errors import HarnessError
from harness.system.messages import first_message


class PublicModel(Frozen):
    """One value of the axis `model` that is no name of a model file."""

    hf: str  # a folder, a config.json, a model file's name, or a name on the Hub
    name: str | None = Field(default=None, pattern=r"^[\w.-]+$")  # None: derived from hf
    scale: int | None = Field(default=None, ge=8)  # width of a toy, see harness.study.scale
    unaligned: bool = False

    @property
    def called(self) -> str:
        if self.name:
            return self.name
        name = model_name(self.hf)
        return (
            toy_name(name, Scale(of=name, width=self.scale, unaligned=self.unaligned)) if self.scale else name
        )


def model_blocks(content: dict[str, Any]) -> list[dict[str, Any]]:
    """The blocks of a study that may name models, in its matrix and in what it simulates, before it is checked."""
    matrix, simulated = content.get("matrix"), content.get("simulate")
    tables = [matrix, *(simulated.values() if isinstance(simulated, dict) else [])]
    blocks = [block for table in tables for block in (table if isinstance(table, list) else [table])]
    return [block for block in blocks if isinstance(block, dict)]


def with_public_models(content: dict[str, Any], file: Path) -> dict[str, Any]:
    """The study with every `{hf: …}` resolved. Raises HarnessError naming file and key."""
    content = copy.deepcopy(content)
    found: dict[str, PublicModel] = {}
    plain: set[str] = set()
    for block in model_blocks(content):
        given = block.get("model", [])
        models = given if isinstance(given, list) else [given]
        names = [_named(model, found, file) if isinstance(model, dict) else model for model in models]
        plain |= {str(model) for model in models if not isinstance(model, dict)}
        if "model" in block:
            block["model"] = names if isinstance(given, list) else names[0]
    if not found:
        return content
    if both := sorted(plain & found.keys()):
        raise HarnessError(
            f"{file}: model {both[0]!r} is named as a model file and is also the name of {{hf: {found[both[0]].hf}}}; "
            "give the latter another one with name:"
        )
    specs = {name: _content(model, file) for name, model in found.items()}
    return {**content, "models": {**(content.get("models") or {}), **specs}}


def _named(given: dict[str, Any], found: dict[str, PublicModel], file: Path) -> str:
    try:
        model = PublicModel.model_validate(given)
    except ValidationError as error:
        raise HarnessError(f"{file}: model.{first_message(error, PublicModel)}") from error
    if model.unaligned and not model.scale:
        raise HarnessError(
            f"{file}: model.unaligned: only a toy can be; give scale: with it, the toy's width, as 64"
        )
    name = model.called
    if found.setdefault(name, model) != model:
        raise HarnessError(
            f"{file}: two models would be called {name!r}; tell them apart with name: in {{hf: …}}"
        )
    return name


def _content(model: PublicModel, file: Path) -> dict[str, Any]:
    try:
        return model_content(model.hf, file.parent, width=model.scale, unaligned=model.unaligned)
    except HarnessError as error:
        raise HarnessError(f"{file}: model: {error}") from error
