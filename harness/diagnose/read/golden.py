"""Rows from the files that trainers keep of how a loss must go: torchtitan's and Megatron-LM's golden values."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from harness.diagnose.read.rows import Row, Rows

COLUMNS = ("step", "loss", "grad_norm")


def from_golden(text: str) -> Rows | None:
    """A text or JSON file of golden values; None where it is something else."""
    return _of_torchtitan(text) or _of_megatron(text)


def _of_torchtitan(text: str) -> Rows | None:
    """A line a step: its number, then what the comment `# step …` above names, by default loss and gradient norm."""
    names: tuple[str, ...] = COLUMNS
    rows: list[Row] = []
    for line in text.splitlines():
        words = line.split()
        if line.startswith("#"):
            names = tuple(words[1:]) if words[1:2] == ["step"] else names
        elif words[:1] == ["step"] and not rows:  # a head without the sign of a comment
            names = tuple(words)
        elif words:
            if not 2 <= len(words) <= len(names) or not re.fullmatch(r"\d+", words[0]):
                return None
            try:
                values = [float(word) for word in words]
            except ValueError:
                return None
            if rows and values[0] <= rows[-1]["step"]:
                return None
            rows.append(dict(zip(names, values, strict=False)))
    return Rows(form="golden values of torchtitan", rows=rows) if len(rows) > 1 else None


def _of_megatron(text: str) -> Rows | None:
    """An object of quantities, each with `start_step`, `step_interval` and `values` (by step, or a list in order)."""
    try:
        content = json.loads(text)
    except ValueError:
        return None
    if not isinstance(content, dict) or not content:
        return None
    by_step: dict[int, dict[str, Any]] = {}
    for name, quantity in content.items():
        if (
            not isinstance(quantity, Mapping)
            or not {"start_step", "step_interval", "values"} <= quantity.keys()
        ):
            return None
        values = quantity["values"]
        if isinstance(values, list):
            start, every = int(quantity["start_step"]), int(quantity["step_interval"])
            values = {start + every * place: value for place, value in enumerate(values)}
        for step, value in values.items():
            by_step.setdefault(int(step), {"step": int(step)})[name] = value
    return Rows(form="golden values of Megatron-LM", rows=[by_step[step] for step in sorted(by_step)])
