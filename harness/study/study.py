"""A study file becomes runs: this module holds the records that cross the house and all validation of them.

A study is a small YAML file (see experiments/). Each block under `matrix` is a product of axes; every cell of it is
one run, and a run's id is a hash of everything in the study that can change its numbers (versions of packages and the
machine are no part of it: the first are recorded in run.json).
"""

from __future__ import annotations

import errno
import hashlib
import itertools
import json
import os
import re
from collections.abc import Iterable, Mapping
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from harness.hardware.profiles import find
from harness.study.models import parse_model
from harness.system.errors import HarnessError, nearest
from harness.system.places import REPOSITORY
from harness.system.whole_file import write_text_whole
from harness.system.yaml_file import read_keys
from harness.variants import Variant, installed_release, patch_hashes, supported_releases
from harness.workload.stdlib_text import stdlib_sha256

DeviceKind = Literal["cpu", "virtual", "cuda"]
EVIDENCE: dict[str, str] = {"cpu": "cpu", "virtual": "virtual-device", "cuda": "one-gpu"}
POLICIES = ("eager", "side-first", "main-first", "timed")
RANDOM_POLICY = re.compile(r"random\(\d+\)")
TIMED_POLICY = re.compile(r"timed\(\d+(?:,([\w.-]+))?(?:,([\w.-]+))?\)")  # scale, network, GPU
SHIPPED = {"mmlu": "experiments/data/mmlu-mini.csv"}
POISONS = ("nan", "pattern", "stale")
BITS = {"kbit": 1e3, "mbit": 1e6, "gbit": 1e9}
LINK = re.compile(rf"[1-9]\d*(?:\.\d+)?(?:{'|'.join(BITS)})")
LONGEST_STALL = 10_000  # µs; a step makes hundreds of copies, and a run must end


class Frozen(BaseModel):
    """Base of all records: immutable, and a key that is not known is refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Shape(Frozen):
    """Cluster shape: `nodes` × `ranks_per_node` ranks, secondary shards over `hpz` ranks (1: hpZ off)."""

    nodes: int = Field(ge=1)
    ranks_per_node: int = Field(ge=1)
    hpz: int = Field(default=1, ge=1)

    @property
    def world_size(self) -> int:
        return self.nodes * self.ranks_per_node

    @model_validator(mode="after")
    def _hpz_divides(self) -> Self:
        if self.world_size % self.hpz:
            raise ValueError(
                f"hpz={self.hpz} must divide the world size {self.nodes} × {self.ranks_per_node} = {self.world_size}"
            )
        if self.hpz % self.ranks_per_node and self.ranks_per_node % self.hpz:
            valid = [n for n in range(1, self.ranks_per_node + 1) if self.ranks_per_node % n == 0]
            raise ValueError(
                f"hpz={self.hpz} must divide ranks_per_node={self.ranks_per_node} or be a multiple of it; "
                f"use one of {valid}"
            )
        return self

    def __str__(self) -> str:
        return f"{self.nodes}x{self.ranks_per_node}" + (f"-hpz{self.hpz}" if self.hpz > 1 else "")


class Training(Frozen):
    """Everything about one training that is not its model, variant, shape or data."""

    task: Literal["pretrain", "finetune"] = "pretrain"
    checkpoint: str | None = (
        None  # finetune: folder or Hub name of the weights; {model} stands for the model's name
    )
    steps: int = Field(default=24, ge=1)
    micro_batch: int = Field(default=2, ge=1)  # sequences per rank and micro-step
    sequence_length: int = Field(default=32, ge=2)  # tokens
    gradient_accumulation: int = Field(default=1, ge=1)
    dtype: Literal["bf16", "fp32"] = "bf16"
    learning_rate: float = Field(default=2e-3, gt=0)
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = Field(default=1e-8, gt=0)
    weight_decay: float = Field(default=0.0, ge=0)
    warmup_steps: int = Field(default=0, ge=0)
    gradient_clipping: float = Field(default=1.0, ge=0)
    activation_checkpointing: bool = False
    overlap_comm: bool = True
    throughput_timer: bool = True
    checkpoint_every: int = Field(default=0, ge=0)  # steps between checkpoints; 0: only when asked to stop

    @model_validator(mode="after")
    def _weights_fit_the_task(self) -> Self:
        if self.checkpoint and self.task == "pretrain":
            raise ValueError(
                "task pretrain starts from random weights; set task: finetune, or leave checkpoint out"
            )
        return self


class Data(Frozen):
    """Where token batches come from; `path` is relative to the study file, or absolute."""

    source: Literal["stdlib", "file", "hub", "mmlu"] = "stdlib"
    path: str | None = None  # mmlu: the shipped questions where there is none
    name: str | None = None  # configuration of a Hub dataset
    split: str = "train"
    text_column: str = "text"
    tokenizer: str | None = None  # None: bytes; stdlib has its own, with as many tokens as the model
    sha256: str | None = None  # of the text, filled in when the study is loaded

    @model_validator(mode="before")
    @classmethod
    def _spell_out(cls, given: Any) -> Any:
        """`hub: NAME` and `file: PATH` stand for source and path; the standard library's text gets its hash."""
        if not isinstance(given, dict):
            return given
        for source in {"hub", "file"} & given.keys():
            if named := {"source", "path"} & given.keys():
                raise ValueError(
                    f"{source} stands for source and path; leave {' and '.join(sorted(named))} out"
                )
            given = {"source": source, "path": given[source], **given}
            del given[source]
        if given.get("source", "stdlib") == "stdlib":
            given = {**given, "sha256": given.get("sha256") or stdlib_sha256()}
        return given


class Rule(Frozen):
    """The decision rule, stated before the runs."""

    warmup_steps_dropped: int = Field(default=3, ge=0)  # first steps left out of timings
    final_window: int = Field(default=5, ge=1)  # steps of the final-loss comparison
    confidence: float = Field(default=0.95, gt=0, lt=1)
    minimum_seeds: int = Field(default=3, ge=1)  # baseline seeds needed for a tolerance band
    stuck_steps: int = Field(default=5, ge=2)  # equal losses in a row that count as stuck


class Launch(Frozen):
    """How the local launcher treats the runs."""

    timeout_seconds: float = Field(default=600, gt=0)
    lanes: int | None = Field(default=None, ge=1)  # runs side by side; None: as cores and memory allow


class Run(Frozen):
    """One cell of a study. Its id hashes every field but `study`, so the same run in two studies has one id."""

    study: str
    model: str
    model_spec: dict[str, Any]
    variant: str
    release: str
    patches: dict[str, str]  # patch file → sha256
    shape: Shape
    seed: int
    device: DeviceKind
    policy: str
    poison: str
    training: Training
    data: Data
    deepspeed: dict[str, Any]  # the DeepSpeed JSON configuration, as rendered
    link: str | None = None  # rate that the links between nodes are given, as 50mbit; None: as they are
    stall_us: int = (
        0  # cuda: how long the compute stream is held before each copy on the device, microseconds
    )
    virtual_nodes: bool = False  # cuda: the nodes are groups of ranks on one machine, which share its GPUs

    @property
    def evidence(self) -> str:
        """Evidence level of every number that this run produces."""
        across = self.device == "cuda" and self.shape.nodes > 1 and not self.virtual_nodes
        return "multi-node" if across else EVIDENCE[self.device]

    @property
    def schedule(self) -> str:
        """In which order work ran that nothing orders, in a word or two: the policy, or on a GPU the stall."""
        return f"stall {self.stall_us} µs" if self.stall_us else self.policy

    @cached_property
    def run_id(self) -> str:
        """Readable name plus a hash of everything in the study that can change the run's numbers."""
        content = self.model_dump(mode="json", exclude={"study"})
        if self.data.sha256:
            del content["data"]["path"]  # the text itself says which it is, wherever it lies
        for name in ("link", "stall_us", "virtual_nodes"):
            if not content[name]:
                del content[name]  # a field that says nothing changes no number, and no id
        digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:8]
        return "_".join([*self._name_parts(), digest])

    def _name_parts(self) -> list[str]:
        training = self.training
        parts = [self.model, self.variant, str(self.shape)]
        parts += (
            [self.policy.replace("(", "").replace(")", "")] if self.device == "virtual" else [self.device]
        )
        parts += [f"ga{training.gradient_accumulation}"] if training.gradient_accumulation > 1 else []
        parts += ["ckpt"] if training.activation_checkpointing else []
        parts += [self.link] if self.link else []
        parts += [f"stall{self.stall_us}us"] if self.stall_us else []
        return [re.sub(r"[^\w.+-]", "-", part) for part in [*parts, f"s{self.seed}"]]


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
)
RUN_AXES = ("model", "variant", "shape", "seed", "device", "policy", "poison", "release", "link", "stall_us")
DEFAULT_AXES: dict[str, Any] = {"seed": 1, "policy": "eager", "poison": "nan", "link": None, "stall_us": 0}

CONTROLLED = {
    # DeepSpeed keys that the study decides elsewhere, and where.
    ("zero_optimization", "stage"): "always 3",
    ("zero_optimization", "zero_hpz_partition_size"): "set matrix.shape (hpz)",
    ("zero_optimization", "overlap_comm"): "set training.overlap_comm",
    ("train_micro_batch_size_per_gpu",): "set training.micro_batch",
    ("train_batch_size",): "set training.micro_batch and training.gradient_accumulation",
    ("gradient_accumulation_steps",): "set training.gradient_accumulation",
    ("gradient_clipping",): "set training.gradient_clipping",
    ("bf16",): "set training.dtype",
    ("optimizer",): "set training.learning_rate and its kin",
    ("scheduler",): "set training.warmup_steps",
}


class Study(Frozen):
    """A study as read; `runs` and `pairs` are derived from it."""

    name: str = Field(pattern=r"^[A-Za-z0-9][\w.-]*$")
    question: str = ""
    device: DeviceKind = "virtual"
    virtual_nodes: bool = False  # cuda: all ranks run on one machine, whatever the shape calls a node
    release: str | None = None
    training: Training = Training()
    data: Data = Data()
    deepspeed: dict[str, Any] = {}
    rule: Rule = Rule()
    launch: Launch = Launch()
    baseline: dict[str, Any] = {"variant": "zero3"}
    simulate: dict[str, Any] = {}  # what `hpz simulate` computes; read by harness.simulate.plan
    matrix: tuple[dict[str, Axis], ...]
    models: dict[str, dict[str, Any]] = {}  # filled in from models/<name>.yaml beside the study

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
            _check_axes(block, f"matrix[{index}]")
            if missing := {"model", "variant", "shape"} - block.keys():
                raise ValueError(f"matrix[{index}] lacks {', '.join(sorted(missing))}")
        _check_axes(self.baseline, "baseline")
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
            raise HarnessError(f"{where}.{_first_message(error, Run)}") from error

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
            raise HarnessError(f"matrix.model: {name!r} has no file models/{name}.yaml beside the study")
        return self.models[name]


def _check_axes(block: Mapping[str, Any], where: str) -> None:
    valid = (*RUN_AXES, *TRAINING_AXES)
    for key, value in block.items():
        if key not in valid:
            raise ValueError(f"{where}.{key} is not an axis; {nearest(str(key), valid)}")
        if value in ([], ()):
            raise ValueError(f"{where}.{key} is an empty list, which leaves no run; give a value")


@lru_cache(maxsize=1)
def default_release() -> str:
    """The installed DeepSpeed's release where there is one, else the newest supported."""
    return installed_release() or supported_releases()[-1]


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
        raise HarnessError(f"matrix.shape: {_first_message(error, Shape)}") from error


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


def deepspeed_config(training: Training, shape: Shape, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """The DeepSpeed JSON configuration of a run; `overrides` are the study's own `deepspeed` keys.

    The ZeRO-3 sizes default to small values under which hpZ's secondary all-gathers really happen on toy models.
    """
    zero: dict[str, Any] = {
        "stage": 3,
        "overlap_comm": training.overlap_comm,
        "contiguous_gradients": True,
        "reduce_scatter": True,
        "stage3_param_persistence_threshold": 0,
        "stage3_max_reuse_distance": 0,
    }
    config: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": training.micro_batch,
        "gradient_accumulation_steps": training.gradient_accumulation,
        "gradient_clipping": training.gradient_clipping,
        "zero_allow_untested_optimizer": True,
        "steps_per_print": 10**9,
        "timers": {"throughput": {"enabled": training.throughput_timer}},
    }
    if training.dtype == "bf16":
        config["bf16"] = {"enabled": True}
    config |= {key: value for key, value in overrides.items() if key != "zero_optimization"}
    config["zero_optimization"] = zero | dict(overrides.get("zero_optimization", {}))
    if shape.hpz > 1:
        config["zero_optimization"]["zero_hpz_partition_size"] = shape.hpz
    return config


def load_study(path: str | Path) -> Study:
    """Read a study file, or the study.yaml of a results folder. Raises HarnessError naming file and key."""
    file = Path(path)
    file = file / "study.yaml" if file.is_dir() else file
    content = read_keys(file, "give a study file, as experiments/laptop.yaml, or a results folder")
    given = content.get("models") or {}
    if isinstance(given, dict):
        content = {
            **content,
            "models": {**given, **_models_beside(file, _model_names(content) - given.keys())},
        }
    try:
        study = Study.model_validate(_with_hardware(content, file))
        for name, spec in study.models.items():
            parse_model(spec, f"models.{name}")
        study = study.model_copy(update={"data": _located(study.data, file)})
        _ = study.runs
    except ValidationError as error:
        raise HarnessError(f"{file}: {_first_message(error, Study)}") from error
    except HarnessError as error:
        raise HarnessError(f"{file}: {error}") from error
    return study


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


def _models_beside(file: Path, names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """What models/<name>.yaml beside the study holds, for each name that has such a file. Raises HarnessError."""
    found: dict[str, dict[str, Any]] = {}
    for name in sorted(names):
        source = file.parent / "models" / f"{name}.yaml"
        if source.is_file():
            found[name] = read_keys(source, "model files lie in experiments/models")
            parse_model(found[name], str(source))
    return found


def _model_names(content: dict[str, Any]) -> set[str]:
    """The models that a study names, in its matrix and in what it simulates, before anything of it is checked."""
    matrix, simulated = content.get("matrix"), content.get("simulate")
    tables = [matrix, *(simulated.values() if isinstance(simulated, dict) else [])]
    blocks = [block for table in tables for block in (table if isinstance(table, list) else [table])]
    named = [block.get("model", []) for block in blocks if isinstance(block, dict)]
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
    if found is None:
        raise HarnessError(f"data.path: no file {path!r} beside {file.name}; give a path that exists")
    inside = found.is_relative_to(REPOSITORY)
    shown = str(found.relative_to(REPOSITORY)) if inside else str(found)
    digest = data.sha256 or hashlib.sha256(found.read_bytes()).hexdigest()
    return data.model_copy(update={"path": shown, "sha256": digest})


def data_file(data: Data) -> Path:
    """Where the data's file lies on this machine: as given (inside the repository, relative to it), or as shipped."""
    return REPOSITORY / (data.path or SHIPPED[data.source])


def _first_message(error: ValidationError, model: type[BaseModel]) -> str:
    """The first of pydantic's complaints as one sentence with its key."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return f"{where} is not a key; {nearest(str(first['loc'][-1]), _fields_at(model, first['loc'][:-1]))}"
    message = first["msg"].removeprefix("Value error, ")
    given = f" (given: {first['input']!r})" if where and not isinstance(first["input"], dict) else ""
    return f"{where + ': ' if where else ''}{message}{given}"


def _fields_at(model: type[BaseModel], path: tuple[int | str, ...]) -> list[str]:
    for part in path:
        field = model.model_fields.get(str(part))
        if (
            field is not None
            and isinstance(field.annotation, type)
            and issubclass(field.annotation, BaseModel)
        ):
            model = field.annotation
    return list(model.model_fields)
