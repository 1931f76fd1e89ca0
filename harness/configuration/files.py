"""A configuration file as keys: JSON, Hjson as DeepSpeed reads it, or YAML; and which kind of configuration it is."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import hjson
import yaml

from harness.configuration.keys import sections
from harness.configuration.remarks import Remark
from harness.system.errors import HarnessError

Kind = Literal[
    "deepspeed", "accelerate", "llama-factory", "axolotl", "trainer", "model", "nested", "empty", "other"
]
HINT = (
    "give DeepSpeed's JSON, an Accelerate, LLaMA-Factory or axolotl YAML that names it, "
    "or the training script or sbatch file that does"
)
TRAINER = ("per_device_train_batch_size", "num_train_epochs", "output_dir", "max_steps", "logging_steps")
TELLING = {
    # Keys by which a kind is known: any of them, and with what it takes to be of use.
    "model": ("model_type", "architectures"),
    "accelerate": ("distributed_type", "deepspeed_config", "compute_environment"),
    "axolotl": ("base_model", "sequence_len", "micro_batch_size"),
    "llama-factory": ("finetuning_type", "template", "cutoff_len"),
    "trainer": ("deepspeed", *TRAINER),
}


def read_text(file: Path) -> str:
    """The text of a configuration file. Raises HarnessError naming it."""
    try:
        content = file.read_bytes()
    except OSError as error:
        raise HarnessError(f"{file}: cannot be read ({error.strerror}); {HINT}") from error
    try:
        return content.decode("utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise HarnessError(f"{file}: not text in UTF-8; {HINT}") from error


def keys_of(text: str, source: str, remarks: list[Remark]) -> dict[str, Any]:
    """The keys that a text holds; what is odd in how it is written goes to `remarks`. Raises HarnessError."""
    if source.lower().endswith((".yaml", ".yml")):
        return _mapping(_yaml(text, source), source)
    twice: list[str] = []
    try:
        return _mapping(json.loads(text, object_pairs_hook=_pairs(twice)), source)
    except json.JSONDecodeError as error:
        strict = error
    finally:
        for key in twice:
            remarks.append(
                Remark("refused", key, f"{key} stands there twice: DeepSpeed refuses that; read is the last")
            )
    if decoded := _base64(text):
        return keys_of(decoded, source, remarks)
    if not text.lstrip().startswith(("{", "//", "/*", "#")):
        content = _yaml(text, source) if ":" in text else None
        if isinstance(content, dict):
            return content
        raise HarnessError(f"{source}: line {strict.lineno}: not JSON ({strict.msg}); {HINT}")
    try:
        content = hjson.loads(text, object_pairs_hook=_pairs(twice))
    except (hjson.HjsonDecodeError, RecursionError) as error:
        line = getattr(error, "lineno", strict.lineno)
        raise HarnessError(f"{source}: line {line}: neither JSON nor Hjson ({strict.msg}); {HINT}") from error
    remarks.append(
        Remark(
            "syntax",
            "",
            f"line {strict.lineno} is no JSON, but Hjson, which DeepSpeed reads; Hugging Face's integration does not",
        )
    )
    return _mapping(_plain(content), source)


def kind_of(keys: Mapping[str, Any]) -> Kind:
    """Which kind of configuration some keys are; `nested` where a DeepSpeed configuration lies deeper in it."""
    if not keys:
        return "empty"
    top = sections()[""].keys
    ours = [key for key in keys if key in top]
    if "zero_optimization" in keys or len(ours) > len(keys) / 2:
        return "deepspeed"
    for kind, telling in TELLING.items():
        if any(key in keys for key in telling):
            return kind  # type: ignore[return-value]
    if nested(keys) is not None:
        return "nested"
    misspelt = [
        key
        for key in keys
        if isinstance(key, str) and key.startswith(("zero_opt", "zero-opt", "zeroopt", "zero_hpz"))
    ]
    return "deepspeed" if ours or misspelt else "other"


def nested(keys: Mapping[str, Any]) -> dict[str, Any] | None:
    """A DeepSpeed configuration at any depth of some keys; None where there is none."""
    for value in keys.values():
        if isinstance(value, Mapping):
            if "zero_optimization" in value:
                return dict(value)
            if (inner := nested(value)) is not None:
                return inner
    return None


def _mapping(content: Any, source: str) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise HarnessError(f"{source}: must hold one object of keys, not {type(content).__name__}; {HINT}")
    return content


def _yaml(text: str, source: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise HarnessError(f"{source}: not YAML: {' '.join(str(error).split())[:200]}") from error


def _pairs(twice: list[str]) -> Any:
    def pairs(found: list[tuple[str, Any]]) -> dict[str, Any]:
        keys = [key for key, _ in found]
        twice.extend(key for key in dict.fromkeys(keys) if keys.count(key) > 1 and key not in twice)
        return dict(found)

    return pairs


def _plain(content: Any) -> Any:
    """Hjson's ordered mappings as dictionaries."""
    if isinstance(content, Mapping):
        return {key: _plain(value) for key, value in content.items()}
    return [_plain(one) for one in content] if isinstance(content, list) else content


def _base64(text: str) -> str | None:
    """The JSON in a base64 text, which DeepSpeed takes as well; None where it is none."""
    try:
        decoded = base64.urlsafe_b64decode(text.strip()).decode()
    except (binascii.Error, UnicodeDecodeError, ValueError):
        return None
    return decoded if decoded.lstrip().startswith("{") else None
