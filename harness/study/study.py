"""A study as read, and the runs that its matrix expands to.

Each block under `matrix` is a product of axes; every cell of it is
one run, and a run's id is a hash of everything in the study that can change its numbers (versions of packages and the
machine are no part of it: the first are recorded in run.json).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from functools import cached_property, lru_cache
from typing import Any, Self

from pydantic import Field, ValidationError, field_validator, model_validator

from harness.hardware import find_card
from harness.study.axes import (
    DEEPSPEED,
    DEFAULT_AXES,
    RUN_AXES,
    TRAINING_AXES,
    Axis,
    check_axes,
    check_no_number_as_text,
    parse_link,
    parse_poison,
    parse_policy,
    parse_shape,
    parse_stall,
)
from harness.study.deepspeed_json import CONTROLLED, check_keys, deepspeed_config, value_at, with_value
from harness.study.models import SHIPPED_MODELS
from harness.study.records import (
    DEVICE_DEFAULTS,
    NOT_ON,
    Data,
    DeviceKind,
    Frozen,
    Launch,
    Plan,
    Rule,
    Run,
    Shape,
    Training,
)
from harness.system.errors import HarnessError, nearest
from harness.system.messages import first_message
from harness.variants import Variant, installed_release, patch_hashes, supported_releases


class Study(Frozen):
    """A study as read; `runs` and `pairs` are derived from it."""

    name: str = Field(pattern=r"^[A-Za-z0-9][\w.-]*$")  # results go to results/<name>
    question: str = ""  # for people: what the study asks
    device: DeviceKind = "virtual"  # where runs train; also an axis
    virtual_nodes: bool = False  # cuda: all ranks run on one machine, whatever the shape calls a node
    release: str | None = None  # of DeepSpeed; default: the installed one, else the newest that is known
    training: Training = Training()  # see training
    data: Data = Data()  # see data
    deepspeed: dict[str, Any] = Field(
        default_factory=dict
    )  # laid over DeepSpeed's JSON, as training makes it
    rule: Rule = Rule()  # see rule
    launch: Launch = Launch()  # see launch
    # The axes in which a run's baseline differs from it.
    baseline: dict[str, Any] = Field(default_factory=lambda: {"variant": "zero3"})
    gpu: str | None = None  # profile of the card that each rank has, as a100-sxm-80gb; no part of a run's id
    plan: Plan = Plan()  # see plan
    # What `hpz simulate` computes; see simulate.
    simulate: dict[str, Any] = Field(default_factory=dict)
    matrix: tuple[dict[str, Axis], ...]  # see matrix
    # Filled in from models/<name>.yaml, beside the study or shipped.
    models: dict[str, dict[str, Any]] = Field(default_factory=dict)

    @field_validator("matrix", mode="before")
    @classmethod
    def _one_block_or_many(cls, value: Any) -> Any:
        return (value,) if isinstance(value, Mapping) else value

    @field_validator("gpu")
    @classmethod
    def _known_card(cls, value: str | None) -> str | None:
        if value is not None:
            find_card(value)
        return value

    @field_validator("deepspeed")
    @classmethod
    def _not_controlled(cls, value: dict[str, Any]) -> dict[str, Any]:
        for path, where in CONTROLLED.items():
            inner: Any = value
            for key in path:
                inner = inner.get(key) if isinstance(inner, dict) else None
            if inner is not None:
                raise ValueError(f"deepspeed.{'.'.join(path)} is the study's to decide: {where}")
        if not isinstance(value.get("zero_optimization", {}), dict):
            raise ValueError(
                "deepspeed.zero_optimization must hold keys; leave it out where there is none to set"
            )
        check_no_number_as_text(value, "deepspeed")
        check_keys(value)
        return value

    @model_validator(mode="after")
    def _held_out_text(self) -> Self:
        if self.training.validate_every and not self.data.packed:
            raise ValueError(
                "training.validate_every: nothing is held out of this data; use text of your own with data.packed: "
                "true, or set it to 0"
            )
        return self

    @model_validator(mode="after")
    def _known_axes(self) -> Self:
        if not self.matrix:
            raise ValueError(
                "matrix holds no block, so there is nothing to run; give model, variant and shape"
            )
        for index, block in enumerate(self.matrix):
            check_axes(block, f"matrix[{index}]")
            if missing := {"model", "variant", "shape"} - block.keys():
                raise ValueError(f"matrix[{index}] lacks {', '.join(sorted(missing))}")
        check_axes(self.baseline, "baseline")
        return self

    @cached_property
    def runs(self) -> tuple[Run, ...]:
        """All runs, baselines included, each once, in the order of the file."""
        cells = [
            run for index, block in enumerate(self.matrix) for run in self._expand(block, f"matrix[{index}]")
        ]
        return tuple({run.run_id: run for cell in cells for run in (self.baseline_of(cell), cell)}.values())

    @cached_property
    def pairs(self) -> tuple[tuple[Run, Run], ...]:
        """Each run with its baseline; the baselines themselves are left out."""
        pairs = ((run, self.baseline_of(run)) for run in self.runs)
        return tuple((run, baseline) for run, baseline in pairs if run.run_id != baseline.run_id)

    def baseline_of(self, run: Run) -> Run:
        """The run that `run` is compared with: it differs in what `baseline` names, the variant above all."""
        return self._run({**self._axes_of(run), "variant": "zero3", **self.baseline}, "baseline")

    def _expand(self, block: Mapping[str, Axis], where: str = "matrix") -> Iterable[Run]:
        axes = {**DEFAULT_AXES, **block}
        choices = [value if isinstance(value, list | tuple) else [value] for value in axes.values()]
        for cell in itertools.product(*choices):
            yield self._run(dict(zip(axes, cell, strict=True)), where)

    @cached_property
    def swept(self) -> tuple[str, ...]:
        """The axes in which runs of the study differ, in a fixed order; see `axis_value`."""
        names = (*RUN_AXES, *TRAINING_AXES, *self._deepspeed_axes)
        return tuple(
            name for name in names if len({str(self.axis_value(run, name)) for run in self.runs}) > 1
        )

    @staticmethod
    def axis_value(run: Run, axis: str) -> Any:
        """What a run has on an axis; global_batch in tokens, hpz of ZeRO-3 as 1."""
        if axis == "hpz":
            return run.shape.hpz
        if axis == "global_batch":
            return run.tokens_per_step
        if axis.startswith(DEEPSPEED):
            return value_at(run.deepspeed, axis.removeprefix(DEEPSPEED))
        return getattr(run.training if axis in TRAINING_AXES else run, axis)

    @cached_property
    def _deepspeed_axes(self) -> tuple[str, ...]:
        named = (key for block in (*self.matrix, self.baseline) for key in block if key.startswith(DEEPSPEED))
        return tuple(dict.fromkeys(named))

    def _axes_of(self, run: Run) -> dict[str, Any]:
        """The cell that gives `run` again: gradient_accumulation stands for global_batch, the shape for hpz."""
        names = (*RUN_AXES, *TRAINING_AXES, *self._deepspeed_axes)
        cell = {name: self.axis_value(run, name) for name in names if name not in ("global_batch", "hpz")}
        return {
            key: value for key, value in cell.items() if value is not None or not key.startswith(DEEPSPEED)
        }

    def _run(self, cell: dict[str, Any], where: str) -> Run:
        try:
            return self._resolved(cell)
        except ValidationError as error:
            raise HarnessError(f"{where}.{first_message(error, Run)}") from error

    def _resolved(self, cell: dict[str, Any]) -> Run:
        variant = Variant.parse(str(cell["variant"]))
        device = cell.get("device", self.device)
        release = str(cell.get("release") or self.release or default_release())
        shape = parse_shape(cell["shape"])
        if cell.get("hpz") is not None:
            shape = parse_shape({**shape.model_dump(), "hpz": cell["hpz"]})
        if not variant.hpz:
            shape = shape.model_copy(update={"hpz": 1})
        elif shape.hpz == 1:
            raise HarnessError(
                f"matrix.shape: hpz=1 turns hpZ off, so variant {variant.name!r} cannot run in {shape}"
            )
        own = {axis: cell[axis] for axis in TRAINING_AXES if axis in cell}
        if "gradient_accumulation" in own and "global_batch" not in own:
            own["global_batch"] = None  # the cell's own word over the study's
        if self.training.checkpoint:
            own["checkpoint"] = self.training.checkpoint.replace("{model}", str(cell["model"]))
        training = resolved_training(Training(**{**self.training.model_dump(), **own}), shape, device)
        overrides = self.deepspeed
        for key in (key for key in cell if key.startswith(DEEPSPEED)):
            overrides = with_value(overrides, key.removeprefix(DEEPSPEED), cell[key])
        virtual = device == "virtual"
        return Run(
            study=self.name,
            model=str(cell["model"]),
            model_spec=self._model_spec(str(cell["model"])),
            variant=variant.name,
            release=release,
            patches=patch_hashes(variant, release),
            shape=shape,
            seed=cell["seed"],
            device=device,
            policy=parse_policy(cell["policy"]) if virtual else "native",
            poison=parse_poison(cell["poison"]) if virtual else "none",
            training=training,
            data=self.data,
            deepspeed=deepspeed_config(training, shape, overrides),
            link=parse_link(cell.get("link"), device),
            stall_us=parse_stall(cell.get("stall_us", 0), device),
            virtual_nodes=self.virtual_nodes and device == "cuda",
        )

    def _model_spec(self, name: str) -> dict[str, Any]:
        if name not in self.models:
            shipped = [file.stem for file in SHIPPED_MODELS.glob("*.yaml")]
            raise HarnessError(
                f"matrix.model: {name!r} has no file models/{name}.yaml beside the study and is not shipped; "
                f"{nearest(name, shipped)}"
            )
        return self.models[name]


def resolved_training(training: Training, shape: Shape, device: str) -> Training:
    """The training with what its device decides, and with gradient accumulation for a global batch. HarnessError."""
    for name, values in NOT_ON.get(device, {}).items():
        if (value := getattr(training, name)) in values:
            raise HarnessError(f"training.{name}: device {device} cannot run {value!r}; {values[value]}")
    own: dict[str, Any] = {
        name: value
        for name, value in DEVICE_DEFAULTS.get(device, {}).items()
        if getattr(training, name) is None
    }
    if training.global_batch is not None:
        micro = training.micro_batch * training.sequence_length * shape.world_size
        if training.global_batch % micro:
            low = max(training.global_batch // micro, 1) * micro
            factors = f"{training.micro_batch} × {training.sequence_length} × {shape.world_size} = {micro}"
            raise HarnessError(
                f"training.global_batch: {training.global_batch} tokens are no multiple of micro_batch × "
                f"sequence_length × ranks = {factors}; use for example {low} or {low + micro}"
            )
        own |= {"gradient_accumulation": training.global_batch // micro, "global_batch": None}
    return training.model_copy(update=own)


@lru_cache(maxsize=1)
def default_release() -> str:
    """The installed DeepSpeed's release where there is one, else the newest supported."""
    return installed_release() or supported_releases()[-1]
