"""The records of a study: shape, training, data, decision rule and run, immutable and checked by themselves."""

from __future__ import annotations

import hashlib
import json
import re
from functools import cached_property
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from harness.study.text import stdlib_sha256
from harness.variants import UNPINNED, split_release

DeviceKind = Literal["cpu", "virtual", "cuda"]
EVIDENCE: dict[str, str] = {"cpu": "cpu", "virtual": "virtual-device", "cuda": "one-gpu"}
# Where a study says nothing: what a person would use on a GPU, and elsewhere what the virtual device can order.
DEVICE_DEFAULTS: dict[str, dict[str, str]] = {
    "cpu": {"attention": "eager", "optimizer": "adamw"},
    "virtual": {"attention": "eager", "optimizer": "adamw"},
    "cuda": {"attention": "sdpa", "optimizer": "adamw-fused"},
}
_GPU = "use device: cuda"
# What a device cannot run, and what to do: the virtual device orders the ops of torch, and no others.
NOT_ON: dict[str, dict[str, dict[Any, str]]] = {
    "cpu": {
        "attention": {"flash_attention_2": f"{_GPU}, or attention: sdpa"},
        "optimizer": {"deepspeed-fused-adam": f"{_GPU}, or optimizer: adamw-fused"},
    },
    "virtual": {
        "attention": {"flash_attention_2": f"{_GPU}, or attention: sdpa"},
        "optimizer": {
            "deepspeed-fused-adam": f"{_GPU}, or optimizer: adamw-fused",
            "cpu-adam": "its work is none of torch's ops; use device: cpu or cuda, or optimizer: adamw-fused",
        },
        "compile": {True: "a compiled graph hides its ops; use device: cpu or cuda, or leave compile out"},
    },
}
PACKED = ("prepared", "repeat", "max_tokens", "validation_fraction")  # fields of packed data alone
SHIPPED = {"mmlu": "experiments/data/mmlu-mini.csv"}


class Frozen(BaseModel):
    """Base of all records: immutable, and a key that is not known is refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Shape(Frozen):
    """Cluster shape: `nodes` × `ranks_per_node` ranks, secondary shards over `hpz` ranks (1: hpZ off)."""

    nodes: int = Field(ge=1)  # groups of ranks that stand for machines
    ranks_per_node: int = Field(ge=1)  # usually a GPU each
    hpz: int = Field(default=1, ge=1)  # zero_hpz_partition_size: ranks of an hpZ group

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


Attention = Literal["eager", "sdpa", "flash_attention_2"]
Optimizer = Literal["adamw", "adamw-fused", "deepspeed-fused-adam", "cpu-adam"]
# What a run had before these could be said: a run that has it still has its old id.
AS_BEFORE: dict[str, Any] = {
    "attention": "eager",
    "optimizer": "adamw",
    "compile": False,
    "schedule": "constant",
    "final_learning_rate": 0.1,
    "validate_every": 0,
    "validation_batches": 8,
}


class Training(Frozen):
    """Everything about one training that is not its model, variant, shape or data.

    `attention` and `optimizer` are the device's own where nothing is said (see `DEVICE_DEFAULTS`): resolved runs hold
    what they had. `global_batch` is a way to say `gradient_accumulation`, which is all that a resolved run holds.
    """

    task: Literal["pretrain", "finetune"] = "pretrain"  # from random weights, or from a checkpoint's
    checkpoint: str | None = (
        None  # finetune: folder or Hub name of the weights; {model} stands for the model's name
    )
    steps: int = Field(default=24, ge=1)  # of the optimizer
    micro_batch: int = Field(default=2, ge=1)  # sequences per rank and micro-step
    sequence_length: int = Field(default=32, ge=2)  # tokens
    gradient_accumulation: int = Field(default=1, ge=1)  # micro-batches of a step
    global_batch: int | None = Field(default=None, ge=1)  # tokens of a step over all ranks
    dtype: Literal["bf16", "fp32"] = "bf16"  # of weights and computation
    attention: Attention | None = None  # default: eager; on cuda sdpa
    optimizer: Optimizer | None = None  # default: adamw; on cuda adamw-fused
    compile: bool = False  # torch.compile, as DeepSpeed's engine.compile() asks for it
    learning_rate: float = Field(default=2e-3, gt=0)  # the peak
    schedule: Literal["constant", "cosine"] = "constant"  # after the warm-up
    final_learning_rate: float = Field(
        default=0.1, ge=0, le=1
    )  # cosine: of the last step, as a share of the peak
    betas: tuple[float, float] = (0.9, 0.999)  # of the optimizer
    eps: float = Field(default=1e-8, gt=0)  # of the optimizer
    weight_decay: float = Field(default=0.0, ge=0)  # decoupled
    warmup_steps: int = Field(default=0, ge=0)  # in which the learning rate grows from 0
    gradient_clipping: float = Field(default=1.0, ge=0)  # largest norm; 0: none
    activation_checkpointing: bool = False  # recompute instead of keep
    overlap_comm: bool = True  # DeepSpeed's: communication on streams of its own
    throughput_timer: bool = True  # DeepSpeed's: it synchronises from the third step on
    checkpoint_every: int = Field(default=0, ge=0)  # steps between checkpoints; 0: only when asked to stop
    keep_checkpoints: int = Field(default=1, ge=0)  # the newest; 0: one while it trains, none once it is done
    validate_every: int = Field(default=0, ge=0)  # steps between validation losses; 0: none
    validation_batches: int = Field(default=8, ge=1)  # held-out micro-batches of each rank

    @model_validator(mode="after")
    def _weights_fit_the_task(self) -> Self:
        if self.checkpoint and self.task == "pretrain":
            raise ValueError(
                "task pretrain starts from random weights; set task: finetune, or leave checkpoint out"
            )
        return self


class Data(Frozen):
    """Where token batches come from; `path` is relative to the study file, or absolute.

    `packed`: tokenised once, by `hpz data prepare`, into a corpus that all runs map.
    """

    source: Literal["stdlib", "file", "hub", "mmlu"] = "stdlib"  # also said as file: PATH or hub: NAME
    path: str | None = (
        None  # mmlu: the shipped questions where there is none; packed: a folder or a glob, too
    )
    name: str | None = None  # configuration of a Hub dataset
    split: str = "train"  # of a Hub dataset
    revision: str | None = (
        None  # of a Hub dataset: branch, tag or commit; None: the newest when it is prepared
    )
    text_column: str = "text"  # where the text stands, in JSONL, Parquet and Hub datasets
    tokenizer: str | None = None  # None: bytes; stdlib has its own, with as many tokens as the model
    packed: bool = False  # prepared once by hpz data prepare
    prepared: str | None = None  # packed: the folder where corpora are kept; None: in the cache
    repeat: bool = False  # packed: may be read more than once
    max_tokens: int | None = Field(default=None, ge=1)  # packed: prepare no more than about so many
    validation_fraction: float = Field(default=0.005, ge=0, lt=1)  # packed: share of documents held out
    sha256: str | None = None  # of the text, or of the packed corpus, filled in when the study is loaded

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

    @model_validator(mode="after")
    def _packed_is_said(self) -> Self:
        if self.packed and self.source not in ("file", "hub"):
            raise ValueError(f"packed: source {self.source!r} is not prepared; give file or hub")
        said = [name for name in PACKED if getattr(self, name) != Data.model_fields[name].default]
        if said and not self.packed:
            raise ValueError(f"{said[0]} is for prepared text; set packed: true")
        return self

    @property
    def identity(self) -> dict[str, Any]:
        """What of it can change a run's numbers; once there is a hash, the content says that wherever it lies."""
        if self.packed and self.sha256:
            return {"packed": True, "sha256": self.sha256}
        content = self.model_dump(mode="json", exclude={"packed", *PACKED} if not self.packed else None)
        unsaid = [*(["path"] if self.sha256 else []), *(["revision"] if self.revision is None else [])]
        return {name: value for name, value in content.items() if name not in unsaid}

    def as_here(self) -> Self:
        """The same, for work that asks nothing of the text: the standard library's is the one of this Python."""
        return self.model_copy(update={"sha256": stdlib_sha256()}) if self.source == "stdlib" else self


class Rule(Frozen):
    """The decision rule, stated before the runs."""

    warmup_steps_dropped: int = Field(default=3, ge=0)  # first steps left out of timings
    final_window: int = Field(default=5, ge=1)  # steps of the final-loss comparison
    confidence: float = Field(default=0.95, gt=0, lt=1)  # of intervals
    minimum_seeds: int = Field(default=3, ge=1)  # baseline seeds needed for a tolerance band
    stuck_steps: int = Field(default=5, ge=2)  # equal losses in a row that count as stuck


class Launch(Frozen):
    """How the local launcher treats the runs."""

    timeout_seconds: float = Field(default=600, gt=0)  # of one run
    lanes: int | None = Field(default=None, ge=1)  # runs side by side; None: as cores and memory allow


class Plan(Frozen):
    """What `hpz plan` assumes of runs that nobody has made yet."""

    mfu: float = Field(default=0.35, gt=0, le=1)  # model FLOPs utilisation, for GPU-hours


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

    @field_validator("training")
    @classmethod
    def _as_before(cls, training: Training) -> Training:
        """A run that was recorded before attention and optimizer could be said had what was there then."""
        unsaid = [name for name in ("attention", "optimizer") if getattr(training, name) is None]
        return training.model_copy(update={name: AS_BEFORE[name] for name in unsaid})

    @property
    def evidence(self) -> str:
        """Evidence level of every number that this run produces."""
        across = self.device == "cuda" and self.shape.nodes > 1 and not self.virtual_nodes
        return "multi-node" if across else EVIDENCE[self.device]

    @property
    def tokens_per_step(self) -> int:
        """Tokens of one optimizer step over all ranks."""
        training = self.training
        per_rank = training.micro_batch * training.sequence_length * training.gradient_accumulation
        return per_rank * self.shape.world_size

    @property
    def schedule(self) -> str:
        """In which order work ran that nothing orders, in a word or two: the policy, or on a GPU the stall."""
        return f"stall {self.stall_us} µs" if self.stall_us else self.policy

    @cached_property
    def run_id(self) -> str:
        """Readable name plus a hash of everything in the study that can change the run's numbers."""
        content = self.model_dump(mode="json", exclude={"study"})
        content["data"] = self.data.identity
        for name in ("link", "stall_us", "virtual_nodes"):
            if not content[name]:
                del content[name]  # a field that says nothing changes no number, and no id
        training = content["training"]
        for name in ("global_batch", "keep_checkpoints"):  # no number depends on them
            del training[name]
        for name, before in AS_BEFORE.items():
            if training[name] == before:
                del training[name]
        digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:8]
        return "_".join([*self._name_parts(), digest])

    def _name_parts(self) -> list[str]:
        training = self.training
        parts = [self.model, self.variant, str(self.shape)]
        parts += [UNPINNED] if split_release(self.release)[1] else []
        parts += (
            [self.policy.replace("(", "").replace(")", "")] if self.device == "virtual" else [self.device]
        )
        parts += [f"ga{training.gradient_accumulation}"] if training.gradient_accumulation > 1 else []
        parts += ["ckpt"] if training.activation_checkpointing else []
        parts += [self.link] if self.link else []
        parts += [f"stall{self.stall_us}us"] if self.stall_us else []
        return [re.sub(r"[^\w.+-]", "-", part) for part in [*parts, f"s{self.seed}"]]
