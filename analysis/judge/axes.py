"""What sets the runs of a study apart beside the things that every record names: the axes that it sweeps further."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from harness.study import Run, Study

# What records name by themselves, or what follows from it (hpz from the shape, global_batch from the rest).
NAMED = {
    "model",
    "variant",
    "shape",
    "hpz",
    "seed",
    "device",
    "policy",
    "poison",
    "release",
    "link",
    "stall_us",
    "gradient_accumulation",
    "global_batch",
    "throughput_timer",
    "steps",
}


def further_axes(study: Study, run: Run) -> dict[str, Any]:
    """What the run has on each axis that its study sweeps and no other key of a record names."""
    return {name: study.axis_value(run, name) for name in study.swept if name not in NAMED}


def axes_text(axes: Mapping[str, Any]) -> str:
    """`learning_rate=0.0003, stage3_max_live_parameters=1000000`; empty where nothing further is swept."""
    return ", ".join(axis_words(axes).values())


def axis_words(axes: Mapping[str, Any]) -> dict[str, str]:
    """Each axis in a word: a key of DeepSpeed's JSON by its last part, what is not set as `unset`."""
    return {
        name: f"{name.rsplit('.', 1)[-1]}={'unset' if value is None else value}"
        for name, value in axes.items()
    }
