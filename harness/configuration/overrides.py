"""DeepSpeed's keys as words of a command line, as Hydra and OmegaConf take them: `policy.zero_optimization.stage=3`."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from harness.configuration.found import Found
from harness.configuration.remarks import Remark

# `+key=value` adds a key and `++key=value` adds or changes it (Hydra's override grammar); both give it that value.
WORD = re.compile(r"(?<![\w.$-])\+{0,2}([A-Za-z_][\w.]*)=([^\s;&|]+)")
QUOTES = str.maketrans("", "", "\"'")  # none of DeepSpeed's values needs them
ZERO = "zero_optimization"


def with_overrides(config: Found | None, command: str) -> Found | None:
    """`config` with the keys that a command sets one by one; those alone where it names none and they say the stage."""
    prefix, keys, others = _keys_in(command)
    if not keys or (config is None and "stage" not in keys[ZERO]):
        return config
    of = f" as {prefix}" if prefix else ""
    other = f"; {', '.join(others)} not" if others else ""
    said = f"{len(_leaves(keys))} of DeepSpeed's keys are read from the command line{of}{other}"
    if config is None:
        said += "; what the trainer's own configuration holds beside them is not known"
    base = config or Found()
    return replace(base, deepspeed=_merged(base.deepspeed or {}, keys)).saying(Remark("assumed", "", said))


def _keys_in(command: str) -> tuple[str, dict[str, Any], list[str]]:
    """Where the keys stand that a command sets, those keys, and the other places that have some: several models are
    trained by one command, and that with hpZ counts, else the first."""
    words = WORD.findall(_uncommented(command).translate(QUOTES))
    places: dict[str, bool] = {}
    for name, _ in words:
        before, zero, after = name.partition(f"{ZERO}.")
        if zero and (not before or before.endswith(".")):
            before = before.removesuffix(".")
            places[before] = places.get(before, False) or after == "zero_hpz_partition_size"
    if not places:
        return "", {}, []
    prefix = next((place for place, has_hpz in places.items() if has_hpz), next(iter(places)))
    start = f"{prefix}." if prefix else ""
    keys: dict[str, Any] = {}
    for name, value in words:
        if name.startswith(start) and (prefix or name.startswith(f"{ZERO}.")):
            *above, last = name.removeprefix(start).split(".")
            inner = keys
            for part in above:
                inner = inner.setdefault(part, {})
                if not isinstance(inner, dict):
                    break
            else:
                inner[last] = _value(value)
    return prefix, keys, [place or "those without a prefix" for place in places if place != prefix]


def _uncommented(command: str) -> str:
    return "\n".join(line for line in command.splitlines() if not line.lstrip().startswith("#"))


def _value(text: str) -> Any:
    """A number, true, false or null where it is one; else the text."""
    try:
        return json.loads(text.lower() if text in ("True", "False") else text)
    except ValueError:
        return text


def _merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    inner = {
        key: _merged(base[key], value)
        for key, value in over.items()
        if isinstance(value, Mapping) and isinstance(base.get(key), Mapping)
    }
    return {**base, **over, **inner}


def _leaves(keys: Mapping[str, Any]) -> list[str]:
    return [
        name
        for key, value in keys.items()
        for name in (_leaves(value) if isinstance(value, Mapping) else [key])
    ]
