"""The values of a study's axes, read from what a person wrote: each parser says in one sentence what it wants."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from harness.hardware import find
from harness.study.deepspeed_json import CONTROLLED, check_keys, with_value
from harness.study.records import Shape
from harness.system.errors import HarnessError, nearest
from harness.system.messages import first_message

POLICIES = ("eager", "side-first", "main-first", "timed")
RANDOM_POLICY = re.compile(r"random\(\d+\)")
TIMED_POLICY = re.compile(r"timed\(\d+(?:,([\w.-]+))?(?:,([\w.-]+))?\)")  # scale, network, GPU
POISONS = ("nan", "pattern", "stale")
BITS = {"kbit": 1e3, "mbit": 1e6, "gbit": 1e9}
LINK = re.compile(rf"[1-9]\d*(?:\.\d+)?(?:{'|'.join(BITS)})")
NUMBER_AS_TEXT = re.compile(r"[-+]?\d+(?:\.\d*)?[eE][-+]?\d+")  # YAML wants a point and a sign: 1.0e+9
LONGEST_STALL = 10_000  # µs; a step makes hundreds of copies, and a run must end
Axis = Any  # a scalar or a list of them, checked when the matrix is expanded

TRAINING_AXES = (
    "gradient_accumulation",
    "activation_checkpointing",
    "overlap_comm",
    "throughput_timer",
    "micro_batch",
    "sequence_length",
    "steps",
    "dtype",
    "learning_rate",
    "global_batch",
    "attention",
    "optimizer",
    "compile",
)
DEEPSPEED = (
    "deepspeed."  # an axis may be any key of DeepSpeed's JSON that the study does not decide elsewhere
)

RUN_AXES = (
    *(
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
    ),
)
DEFAULT_AXES: dict[str, Any] = {"seed": 1, "policy": "eager", "poison": "nan", "link": None, "stall_us": 0}


def check_axes(block: Mapping[str, Any], where: str) -> None:
    valid = (*RUN_AXES, *TRAINING_AXES)
    for key, value in block.items():
        if str(key).startswith(DEEPSPEED):
            check_not_controlled(tuple(key.removeprefix(DEEPSPEED).split(".")), f"{where}.{key}")
            check_no_number_as_text(value, f"{where}.{key}")
            for one in value if isinstance(value, list) else [value]:
                check_keys(with_value({}, key.removeprefix(DEEPSPEED), one), f"{where}.{key}: ")
        elif key not in valid:
            raise ValueError(f"{where}.{key} is not an axis; {nearest(str(key), valid)}")
        if value in ([], ()):
            raise ValueError(f"{where}.{key} is an empty list, which leaves no run; give a value")


def check_not_controlled(path: tuple[str, ...], where: str) -> None:
    """Refuse a key of DeepSpeed's JSON that a study decides elsewhere, or that holds such a key. ValueError."""
    if not all(path):
        raise ValueError(f"{where} names no key of DeepSpeed's JSON; write deepspeed.zero_optimization.KEY")
    for controlled, instead in CONTROLLED.items():
        if path[: len(controlled)] == controlled or controlled[: len(path)] == path:
            raise ValueError(f"{where} is the study's to decide: {instead}")


def check_no_number_as_text(value: Any, where: str) -> None:
    """Refuse `1e9` among DeepSpeed's values: YAML reads it as text, and DeepSpeed refuses that. Raises ValueError."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            check_no_number_as_text(inner, f"{where}.{key}")
    elif isinstance(value, list):
        for inner in value:
            check_no_number_as_text(inner, where)
    elif isinstance(value, str) and NUMBER_AS_TEXT.fullmatch(value):
        raise ValueError(f"{where}: {value!r} is text in YAML, not a number; write {float(value):.15g}")


def parse_shape(value: Any) -> Shape:
    """A shape from a mapping or from text such as `2x2-hpz2`. Raises HarnessError."""
    if isinstance(value, Shape):
        return value
    if isinstance(value, str):
        match = re.fullmatch(r"(\d+)x(\d+)(?:-hpz(\d+))?", value)
        if not match:
            raise HarnessError(
                f"matrix.shape: {value!r} is not of the form NODESxRANKS-hpzSIZE, such as 2x2-hpz2"
            )
        value = dict(
            zip(("nodes", "ranks_per_node", "hpz"), map(int, match.groups(default="1")), strict=True)
        )
    try:
        return Shape.model_validate(value)
    except ValidationError as error:
        raise HarnessError(f"matrix.shape: {first_message(error, Shape)}") from error


def parse_policy(value: Any) -> str:
    """A policy name, checked. Raises HarnessError naming the valid ones."""
    text = str(value).replace(" ", "")
    if text in POLICIES or RANDOM_POLICY.fullmatch(text):
        return text
    if not (timed := TIMED_POLICY.fullmatch(text)):
        valid = [*POLICIES, "random(SEED)", "timed(SCALE,NETWORK,GPU)"]
        raise HarnessError(f"matrix.policy: {value!r} is unknown; {nearest(str(value), valid)}")
    try:
        for kind, name in zip(("networks", "gpus"), timed.groups(), strict=True):
            if name:
                find(kind, name)
    except HarnessError as error:
        raise HarnessError(f"matrix.policy: {error}") from error
    return text


def parse_poison(value: Any) -> str:
    """A poison name, checked. Raises HarnessError naming the valid ones."""
    if value in POISONS:
        return str(value)
    raise HarnessError(f"matrix.poison: {value!r} is unknown; {nearest(str(value), POISONS)}")


def parse_link(value: Any, device: str) -> str | None:
    """A link rate, checked. Raises HarnessError; on the virtual device no link is real."""
    if value is None:
        return None
    if not LINK.fullmatch(str(value)):
        raise HarnessError(f"matrix.link: {value!r} is not a rate; write for example 50mbit or 1gbit")
    if device == "virtual":
        raise HarnessError(
            "matrix.link: the virtual device has no network; use device: cpu or leave link out"
        )
    return str(value)


def bits_per_second(link: str) -> float:
    """The rate of a link as bit/s."""
    return float(link[:-4]) * BITS[link[-4:]]


def parse_stall(value: Any, device: str) -> int:
    """A stall in microseconds, checked. Raises HarnessError; only a GPU has a stream that can be held up."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= LONGEST_STALL:
        raise HarnessError(
            f"matrix.stall_us: {value!r} is not a whole number of microseconds from 0 to {LONGEST_STALL}"
        )
    if value and device != "cuda":
        raise HarnessError(
            f"matrix.stall_us: device {device} has no clock that a stall could hold up; use device: cuda, or on the "
            "virtual device a policy such as main-first or side-first"
        )
    return value
