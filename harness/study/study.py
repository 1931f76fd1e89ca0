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

from harness.study.axes import (
    DEFAULT_AXES,
    RUN_AXES,
    TRAINING_AXES,
    Axis,
    check_axes,
    parse_link,
    parse_poison,
    parse_policy,
    parse_shape,
    parse_stall,
)
from harness.study.deepspeed_json import CONTROLLED, deepspeed_config
from harness.study.messages import first_message
from harness.study.models import SHIPPED_MODELS
from harness.study.records import Data, DeviceKind, Frozen, Launch, Rule, Run, Training
from harness.system.errors import HarnessError, nearest
from harness.variants import Variant, installed_release, patch_hashes, supported_releases


class Study(Frozen):
    """A study as read; `runs` and `pairs` are derived from it."""

    name: str = Field(pattern=r"^[A-Za-z0-9][\w.-]*$")
    question: str = ""
    device: DeviceKind = "virtual"
    virtual_nodes: bool = False  # cuda: all ranks run on one machine, whatever the shape calls a node
    release: str | None = None
    training: Training = Training()
    data: Data = Data()
    deepspeed: dict[str, Any] = Field(default_factory=dict)
    rule: Rule = Rule()
    launch: Launch = Launch()
    baseline: dict[str, Any] = Field(default_factory=lambda: {"variant": "zero3"})
    # What `hpz simulate` computes; read by harness.simulate.plan.
    simulate: dict[str, Any] = Field(default_factory=dict)
    matrix: tuple[dict[str, Axis], ...]
    # Filled in from models/<name>.yaml, beside the study or shipped.
    models: dict[str, dict[str, Any]] = Field(default_factory=dict)

    @field_validator("matrix", mode="before")
    @classmethod
    def _one_block_or_many(cls, value: Any) -> Any:
        return (value,) if isinstance(value, Mapping) else value

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
        return value

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

    def _axes_of(self, run: Run) -> dict[str, Any]:
        axes = {axis: getattr(run, axis) for axis in RUN_AXES}
        return axes | {axis: getattr(run.training, axis) for axis in TRAINING_AXES}

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
        if not variant.hpz:
            shape = shape.model_copy(update={"hpz": 1})
        elif shape.hpz == 1:
            raise HarnessError(
                f"matrix.shape: hpz=1 turns hpZ off, so variant {variant.name!r} cannot run in {shape}"
            )
        own = {axis: cell[axis] for axis in TRAINING_AXES if axis in cell}
        if self.training.checkpoint:
            own["checkpoint"] = self.training.checkpoint.replace("{model}", str(cell["model"]))
        training = Training(**{**self.training.model_dump(), **own})
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
            deepspeed=deepspeed_config(training, shape, self.deepspeed),
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


@lru_cache(maxsize=1)
def default_release() -> str:
    """The installed DeepSpeed's release where there is one, else the newest supported."""
    return installed_release() or supported_releases()[-1]
