"""Any model of the Hugging Face kind: its public configuration from a folder, a config.json, a model file or the Hub.

What transformers makes of a configuration is found out in a process of its own and kept in a cache, so that a machine
without torch knows what was asked before; the rest is asked for once, where torch is, with `hpz model add`.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from math import prod
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from harness.study.models import SHIPPED_MODELS, ModelFile, PublicConfig, Scale, parse_model
from harness.study.scale import scaled
from harness.study.shape_ranges import Shapes, compress, expand
from harness.system.child import python_path
from harness.system.errors import HarnessError
from harness.system.messages import first_message
from harness.system.places import cache_folder
from harness.system.whole_file import write_json
from harness.system.yaml_file import read_keys

PROGRAM = "harness.workload.shapes"  # knows torch, which nothing here may
HUB = "https://huggingface.co/{}/blob/main/config.json"
# Say nothing of shapes and steps: who made the file, how weights are stored, and what generation needs.
NOISE = {
    *("architectures", "auto_map", "transformers_version", "torch_dtype", "dtype", "quantization_config"),
    *("bos_token_id", "eos_token_id", "pad_token_id", "use_cache", "task_specific_params"),
}
REFUSED = 2  # the program's exit code where its last line is a sentence for the user


def any_model(given: str | Path, beside: Path = SHIPPED_MODELS.parent) -> ModelFile:
    """The model that a path or name means, see `model_content`. Raises HarnessError."""
    return parse_model(model_content(str(given), beside), str(given))


def model_name(given: str | Path) -> str:
    """A readable name: the file's, the folder's, or the last part of a Hub name."""
    path = Path(given)
    path = path.parent if path.name == "config.json" else path
    stem = path.stem if path.suffix in (".json", ".yaml", ".yml") else (path.name or path.resolve().name)
    return re.sub(r"[^\w.-]", "-", stem) or "model"


def toy_name(name: str, scale: Scale) -> str:
    """The name of a toy that is given none."""
    return f"{name}-toy" + ("-unaligned" if scale.unaligned else "")


def model_content(
    given: str,
    beside: Path = SHIPPED_MODELS.parent,
    *,
    width: int | None = None,
    unaligned: bool = False,
    parameters: int | None = None,
) -> dict[str, Any]:
    """The content of a model file for a folder, a config.json, a model file or its name, or a Hub name.

    `beside` is the folder that paths and `models/` may be relative to; `width` scales down (harness.study.scale);
    `parameters` is the published count where it is known. Raises HarnessError, also where shapes are not known here.
    """
    source, config, file = _found(given, beside)
    if file is not None and width is None:
        return file
    content: dict[str, Any] = {"source": source}
    if width is not None:
        try:
            scale = Scale(of=model_name(given) if file else source, width=width, unaligned=unaligned)
        except ValidationError as error:
            raise HarnessError(f"scale: {first_message(error, Scale)}") from error
        config = scaled(config, width, unaligned)
        content = {"source": f"{source}, scaled down", "scale": scale.model_dump()}
    shapes = shapes_of(config, given)
    count = parameters if parameters is not None else sum(prod(shape) for _, shape in shapes)
    return {**content, "parameters": count, "config": config, "shapes": compress(shapes)}


def model_text(content: Mapping[str, Any], counted: bool) -> str:
    """A model file for a person to read; `counted` says that the number of parameters is ours."""
    head = {key: content[key] for key in ("source", "scale", "parameters") if key in content}
    lines = yaml.safe_dump(head, sort_keys=False, allow_unicode=True, width=110).splitlines()
    lines[-1] += (
        "  # counted from the shapes" if counted else "  # as published, and as counted from the shapes"
    )
    config = yaml.safe_dump({"config": content["config"]}, sort_keys=False)
    config = config.replace("config:", "config:  # key names are the public configuration's", 1)
    shapes = yaml.safe_dump(
        {"shapes": content["shapes"]}, sort_keys=False, default_flow_style=None, width=1000
    )
    shapes = shapes.replace(
        "shapes:", f"shapes:  # as transformers {_transformers()} makes them, in its order", 1
    )
    return "\n".join([*lines, config + shapes])


def language_part(config: Mapping[str, Any]) -> dict[str, Any]:
    """The keys that decide a language model: of a model that also sees or hears, its `text_config`."""
    part = config.get("text_config")
    keys = part if isinstance(part, Mapping) and part.get("model_type") else config
    return {key: value for key, value in keys.items() if key not in NOISE and not key.startswith("_")}


def shapes_of(config: Mapping[str, Any], given: str) -> Shapes:
    """Every parameter of what transformers makes of a configuration, from the cache or asked now. HarnessError."""
    text = json.dumps(config, sort_keys=True)
    cached = cache_folder() / "models" / f"{hashlib.sha256(text.encode()).hexdigest()[:20]}.json"
    here = _transformers()
    if cached.is_file():
        known = json.loads(cached.read_text())
        if here in (None, known["transformers"]):
            return expand(known["shapes"])
    if here is None:
        raise HarnessError(
            f"{given}: which parameters it has is not known here, as torch or transformers is not installed; "
            f"write a model file where they are (hpz model add {given}) and give its name"
        )
    with tempfile.TemporaryDirectory(prefix="hpz-shapes-") as folder:
        file = Path(folder) / "config.json"
        file.write_text(text)
        shapes = [(name, tuple(shape)) for name, shape in _asked(str(file), given)]
    cached.parent.mkdir(parents=True, exist_ok=True)
    write_json(cached, {"transformers": here, "shapes": compress(shapes)})
    return shapes


def _found(given: str, beside: Path) -> tuple[str, dict[str, Any], dict[str, Any] | None]:
    """Source, configuration and, where there is one, the whole model file of what was given."""
    for path in (Path(given).expanduser(), beside / given):
        if path.is_dir():
            return str(given), _read_json(path / "config.json"), None
        if path.is_file() and path.suffix == ".json":
            return str(given), _read_json(path), None
        if path.is_file():
            return _model_file(path)
    for folder in (beside / "models", SHIPPED_MODELS):
        if (folder / f"{given}.yaml").is_file():
            return _model_file(folder / f"{given}.yaml")
    return HUB.format(given), _on_hub(given), None


def _model_file(path: Path) -> tuple[str, dict[str, Any], dict[str, Any]]:
    content = read_keys(path, "model files lie in experiments/models")
    model = parse_model(content, str(path))
    public = isinstance(model.config, PublicConfig)
    return path.name, model.config.model_dump(exclude_none=not public), content


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except OSError as error:
        raise HarnessError(
            f"{path}: cannot be read ({error.strerror}); give a folder with a config.json, or a config.json"
        ) from error
    except ValueError as error:
        raise HarnessError(f"{path}: not JSON ({error}); give a Hugging Face config.json") from error
    if not isinstance(content, dict) or "model_type" not in content:
        raise HarnessError(
            f"{path}: no Hugging Face configuration, as it names no model_type; give a model's config.json"
        )
    return language_part(content)


def _on_hub(name: str) -> dict[str, Any]:
    cached = cache_folder() / "models" / f"hub-{name.replace('/', '--')}.json"
    if cached.is_file():
        return dict(json.loads(cached.read_text()))
    nothing = f"{name}: no folder, no config.json, no model file and no models/{name}.yaml"
    if re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name) is None or name.endswith((".json", ".yaml", ".yml")):
        raise HarnessError(f"{nothing}; give one of them, or a name on the Hub")
    if _transformers() is None:
        raise HarnessError(f"{nothing}; to ask the Hub, torch and transformers must be installed")
    config = language_part(_asked(name, nothing))
    cached.parent.mkdir(parents=True, exist_ok=True)
    write_json(cached, config)
    return config


def _asked(what: str, given: str) -> Any:
    """The program's answer. Raises HarnessError with its sentence."""
    done = subprocess.run(
        [sys.executable, "-m", PROGRAM, what],
        env={**os.environ, "PYTHONPATH": python_path()},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["it was killed"])[-1]
        raise HarnessError(f"{given}: {last}")
    return json.loads(done.stdout.splitlines()[-1])


def _transformers() -> str | None:
    """The release of transformers that can be asked, None where it or torch is missing."""
    try:
        return version("transformers") if version("torch") else None
    except PackageNotFoundError:
        return None
