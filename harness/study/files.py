"""Study files and results folders: reading a study with all that it names, and writing it as resolved."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from harness.study.extends import read_extended
from harness.study.model_axis import model_blocks, with_public_models
from harness.study.models import SHIPPED_MODELS, parse_model
from harness.study.packed import check_corpus_fits, located_corpus
from harness.study.records import SHIPPED, Data, Training
from harness.study.study import Study
from harness.system.errors import HarnessError
from harness.system.messages import first_message
from harness.system.places import REPOSITORY, shipped
from harness.system.whole_file import write_text_whole
from harness.system.yaml_file import read_keys


def load_study(path: str | Path, release: str | None = None) -> Study:
    """Read a study file, or the study.yaml of a results folder. Raises HarnessError naming file and key.

    `release` puts one DeepSpeed release in the place of those that the file names.
    """
    file = shipped(Path(path))
    file = file / "study.yaml" if file.is_dir() else file
    content, folders = read_extended(
        file, "give a study file, as experiments/laptop.yaml, or a results folder"
    )
    if release is not None:
        content = _on_release(content, release)
    content = with_public_models(content, file)
    given = content.get("models") or {}
    if isinstance(given, dict):
        content = {
            **content,
            "models": {**given, **_models_for(folders, _model_names(content) - given.keys())},
        }
    try:
        study = Study.model_validate(_with_hardware(content, file))
        for name, spec in study.models.items():
            parse_model(spec, f"models.{name}")
        study = study.model_copy(update={"data": _located(study.data, file)})
        _ = study.runs
        check_corpus_fits(study)
    except ValidationError as error:
        raise HarnessError(f"{file}: {first_message(error, Study)}") from error
    except HarnessError as error:
        raise HarnessError(f"{file}: {error}") from error
    return study


def _on_release(content: dict[str, Any], release: str) -> dict[str, Any]:
    """The keys of a study with one release for all its runs; what is no block is left for validation to name."""
    blocks = content.get("matrix")
    if isinstance(blocks, dict):
        blocks = [blocks]
    if isinstance(blocks, list):
        blocks = [
            {key: value for key, value in block.items() if key != "release"}
            if isinstance(block, dict)
            else block
            for block in blocks
        ]
    return {**content, "release": release, "matrix": blocks}


def save_study(study: Study, folder: Path) -> Path:
    """Write the study as resolved to `folder`/study.yaml. Raises HarnessError, for a folder of another study too."""
    file = folder / "study.yaml"
    text = yaml.safe_dump(study.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=110)
    make_results_folder(folder)
    if file.exists():
        other = read_keys(file, "delete it, or give another folder with --results").get("name")
        if other != study.name:
            raise HarnessError(
                f"{folder} holds results of study {other!r}; give another folder with --results"
            )
    return write_text_whole(file, text)


def make_results_folder(folder: Path) -> None:
    """The folder, made where it is not there. Raises HarnessError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise HarnessError(
            f"{folder}: cannot be a results folder ({error.strerror}); give another one with --results"
        ) from error


def check_weights(study: Study) -> None:
    """Refuse to start a fine-tuning from random weights, which may well be planned and simulated. HarnessError."""
    if study.training.task == "finetune" and not study.training.checkpoint:
        raise HarnessError(
            "training.checkpoint: a finetune starts from weights; give a folder or a Hub name, with {model} for each "
            "model's name where there are several"
        )


def check_attention(training: Training) -> None:
    """Refuse flash attention where its package is not installed. Raises HarnessError."""
    if training.attention == "flash_attention_2" and find_spec("flash_attn") is None:
        raise HarnessError(
            "training.attention: flash_attention_2 needs the package flash-attn, which is not installed here; install "
            "it, or use attention: sdpa"
        )


def _models_for(folders: Iterable[Path], names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """For each name that has a file models/<name>.yaml, beside the study or else shipped, its content. HarnessError."""
    found: dict[str, dict[str, Any]] = {}
    parts = [*(folder / "models" for folder in folders), SHIPPED_MODELS]
    for name in sorted(names):
        places = (folder / f"{name}.yaml" for folder in parts)
        if source := next((place for place in places if place.is_file()), None):
            found[name] = read_keys(source, "model files lie in experiments/models")
            parse_model(found[name], str(source))
    return found


def _model_names(content: dict[str, Any]) -> set[str]:
    """The models that a study names, in its matrix and in what it simulates, before anything of it is checked."""
    named = [block.get("model", []) for block in model_blocks(content)]
    return {str(name) for names in named for name in (names if isinstance(names, list) else [names])}


def _with_hardware(content: dict[str, Any], file: Path) -> dict[str, Any]:
    """Where `simulate.hardware` names a file of profiles beside the study, its content: results hold what they used."""
    simulated = content["simulate"] if isinstance(content.get("simulate"), dict) else {}
    if not isinstance(simulated.get("hardware"), str):
        return content
    own = read_keys(
        file.parent / simulated["hardware"],
        "simulate.hardware names a file that hpz calibrate --output wrote",
    )
    return {**content, "simulate": {**simulated, "hardware": own}}


def _located(data: Data, file: Path) -> Data:
    """Resolve the data's path against the study file, and hash the text unless a resolved study names its hash."""
    if data.source == "stdlib":
        if data.path or data.tokenizer:
            raise HarnessError(
                "data.path: source 'stdlib' has its own text and tokens; set data.source: file to use yours"
            )
        return data
    if data.packed:
        return located_corpus(data, file)
    if data.source == "hub":
        if not data.path:
            raise HarnessError(
                "data.path: needed for source 'hub'; give a Hub name or a folder with a dataset"
            )
        return data
    path = data.path or SHIPPED.get(data.source)
    if path is None:
        raise HarnessError(f"data.path: needed for source {data.source!r}; give a text file")
    candidates = [file.parent / path, REPOSITORY / path]
    found = next((candidate.resolve() for candidate in candidates if candidate.is_file()), None)
    if found is None and data.sha256:
        return data  # results are read on machines that need not have the text
    if any(candidate.is_dir() for candidate in candidates):
        raise HarnessError(
            f"data.path: {path!r} is a folder; set data.packed: true and run `hpz data prepare {file.name}`"
        )
    if found is None:
        raise HarnessError(f"data.path: no file {path!r} beside {file.name}; give a path that exists")
    inside = found.is_relative_to(REPOSITORY)
    shown = str(found.relative_to(REPOSITORY)) if inside else str(found)
    digest = data.sha256 or hashlib.sha256(found.read_bytes()).hexdigest()
    return data.model_copy(update={"path": shown, "sha256": digest})


def data_file(data: Data) -> Path:
    """Where the data's file lies on this machine: as given (inside the repository, relative to it), or as shipped."""
    return REPOSITORY / (data.path or SHIPPED[data.source])
