"""A configuration file as keys: JSON, Hjson as DeepSpeed reads it, or YAML; and which kind of configuration it is."""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import hjson
import yaml

from harness.configuration.keys import sections
from harness.configuration.remarks import Remark
from harness.system.errors import HarnessError
from harness.system.python_text import literal

Kind = Literal[
    "deepspeed", "accelerate", "llama-factory", "axolotl", "trainer", "model", "nested", "empty", "other"
]
HINT = (
    "give DeepSpeed's JSON, an Accelerate, LLaMA-Factory or axolotl YAML that names it, "
    "the training script, sbatch file or job description that does, or a log that prints it"
)
ZERO = re.compile(r"[\"']?zero_optimization[\"']?\s*:\s*(?=\{)")
TRAINER = ("per_device_train_batch_size", "num_train_epochs", "output_dir", "max_steps", "logging_steps")
TELLING = {
    # Keys by which a kind is known: any of them, and with what it takes to be of use.
    "axolotl": ("base_model", "sequence_len"),
    "accelerate": ("distributed_type", "deepspeed_config", "compute_environment"),
    "llama-factory": ("finetuning_type", "template", "cutoff_len"),
    "trainer": ("deepspeed", *TRAINER),
    "model": ("model_type", "architectures"),
}


def read_text(file: Path) -> str:
    """The text of a configuration file. Raises HarnessError naming it."""
    if file.is_dir():
        raise HarnessError(f"{file}: is a folder; {HINT}")
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
        remarks += [
            Remark("refused", key, f"{key} stands there twice: DeepSpeed refuses that; read is the last one")
            for key in twice
        ]
    if decoded := _base64(text):
        return keys_of(decoded, source, remarks)
    if (content := _hjson(text)) is not None:
        said = f"line {strict.lineno} is no JSON, but Hjson, which DeepSpeed reads; Hugging Face's integration does not"
        remarks.append(Remark("syntax", "", said))
        return content
    if (content := _python(text)) is not None:
        remarks.append(Remark("syntax", "", "the text is a dictionary of Python's, no JSON"))
        return content
    if (content := _fragment(text)) is not None:
        remarks.append(Remark("syntax", "", "read is the part of the text that holds zero_optimization"))
        return content
    if not text.lstrip().startswith("{"):
        try:
            content = _yaml(text, source)
        except HarnessError:
            content = None
        if isinstance(content, dict):
            return content
    what = "neither JSON nor Hjson" if text.lstrip().startswith("{") else "not JSON"
    raise HarnessError(f"{source}: line {strict.lineno}: {what} ({strict.msg}); {HINT}")


def _hjson(text: str) -> dict[str, Any] | None:
    """Hjson in braces, which DeepSpeed's reader takes; None for what is none."""
    if not text.lstrip().startswith(("{", "//", "/*", "#")):
        return None
    try:
        content = _plain(hjson.loads(text))
    except (hjson.HjsonDecodeError, RecursionError):
        return None
    # Without braces anything with a colon is Hjson, a shell script, too.
    return content if isinstance(content, dict) and "{" in text else None


def _python(text: str) -> dict[str, Any] | None:
    """A dictionary as Python prints it; None for anything else."""
    try:
        content = literal(text) if text.lstrip().startswith("{") else None
    except ValueError:
        return None
    return content if isinstance(content, dict) else None


def _fragment(text: str) -> dict[str, Any] | None:
    """A configuration amid other text, or a part of one without its outer braces, as people post them."""
    found = ZERO.search(text)
    if found is None:
        return None
    for begin in (match.start() for match in re.finditer(r"\{", text[: found.start()])):
        part = text[begin : _closing(text, begin)]
        if begin + len(part) > found.start() and (content := _hjson(part) or _python(part)) is not None:
            return content
    brace = text.find("{", found.end())
    end = _closing(text, brace) if brace >= 0 else 0
    return _hjson("{" + text[found.start() : end] + "}") if end else None


def _closing(text: str, begin: int) -> int:
    """Behind the brace that closes the one at `begin`; 0 where none does."""
    depth = 0
    for index in range(begin, len(text)):
        depth += {"{": 1, "}": -1}.get(text[index], 0)
        if depth == 0:
            return index + 1
    return 0


def kind_of(keys: Mapping[str, Any]) -> Kind:
    """Which kind of configuration some keys are; `nested` where a DeepSpeed configuration lies deeper in it."""
    if not keys:
        return "empty"
    top = sections()[""].keys
    ours = [key for key in keys if key in top]
    if "zero_optimization" in keys or len(ours) > len(keys) / 2:
        return "deepspeed"
    if nested({"deepspeed_config": keys.get("deepspeed_config")}) is not None:
        return "nested"
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
        kinds = {"NoneType": "nothing", "list": "a list", "str": "a text", "bool": "true or false"}
        kind = kinds.get(type(content).__name__, "a number")
        raise HarnessError(f"{source}: must hold one object of keys, not {kind}; {HINT}")
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
