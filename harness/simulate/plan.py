"""What `hpz simulate` computes for a study: the `simulate` part of the study file, expanded into cells.

A cell is one run on one cluster. Blocks have the axes of the study's matrix, and beside them the hardware and the keys
of DeepSpeed's `zero_optimization` that move the race's window.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from harness.hardware import Cluster, Hardware, cluster, find
from harness.hardware.profiles import NONE
from harness.study import Run, Study
from harness.study.axes import RUN_AXES, TRAINING_AXES
from harness.system.errors import HarnessError, nearest
from harness.system.messages import first_message

ZERO_AXES = (
    "stage3_prefetch_bucket_size",
    "stage3_max_live_parameters",
    "stage3_max_reuse_distance",
    "stage3_param_persistence_threshold",
    "reduce_bucket_size",
)
CELL_AXES = ("network", "gpu", "host", *ZERO_AXES)
TABLES = ("sync_cost", "windows", "scaling", "hpz_sizes")
Block = dict[str, Any]


class Settings(BaseModel):
    """The `simulate` part of a study."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    hardware: Hardware = NONE
    """Profiles beside the shipped ones; in a study file also the name of a file of them."""
    gpu: str = "a100-sxm-80gb"
    """The card, by its profile."""
    host: str = "server"
    """What hands work to it, by its profile."""
    networks: list[str] = Field(default=["ethernet-12.5gbps"], min_length=1)
    """Between nodes, by their profiles."""
    lanes: int = Field(default=2, ge=1)
    """Traces taken side by side."""
    sync_cost: list[Block] = []
    """Every ordering against the others and ZeRO-3."""
    windows: list[Block] = []
    """How far the gather starts after the copy, parameter by parameter, when nothing orders them."""
    scaling: list[Block] = []
    """More nodes, until something else limits."""
    hpz_sizes: list[Block] = []
    """Secondary shards over fewer or more ranks."""

    @field_validator("gpu", "host", "networks")
    @classmethod
    def _known(cls, value: Any, info: Any) -> Any:
        for name in value if isinstance(value, list) else [value]:
            find(f"{info.field_name.rstrip('s')}s", name, info.data.get("hardware", NONE))
        return value


@dataclass(frozen=True)
class Cell:
    """One run on one cluster, in one table."""

    table: str
    run: Run
    gpu: str
    network: str
    host: str
    cluster: Cluster  # of these three

    @property
    def key(self) -> tuple[str, str, str, str, str]:
        """What tells it from every other cell of a study."""
        return self.table, self.run.run_id, self.gpu, self.network, self.host


def settings_of(study: Study) -> Settings:
    """The study's settings; without any, every run of its matrix on the paper's network. Raises HarnessError."""
    given = dict(study.simulate) or {"sync_cost": [dict(block) for block in study.matrix]}
    try:
        return Settings.model_validate(given)
    except ValidationError as error:
        raise HarnessError(f"simulate.{first_message(error, Settings)}") from error


def cells(study: Study) -> list[Cell]:
    """All cells, table by table, each once. Raises HarnessError naming the block, and where there are none."""
    settings = settings_of(study)
    found: dict[tuple[str, ...], Cell] = {}
    for table in TABLES:
        for number, block in enumerate(getattr(settings, table)):
            where = f"simulate.{table}[{number}]"
            for cell in _expand(study, settings, table, block, where):
                found.setdefault(cell.key, cell)
    if not found:
        raise HarnessError(
            f"simulate: names no cells; give blocks under {', '.join(TABLES[:-1])} or {TABLES[-1]}"
        )
    return list(found.values())


def _expand(study: Study, settings: Settings, table: str, block: Block, where: str) -> Iterator[Cell]:
    valid = (*RUN_AXES, *TRAINING_AXES, *CELL_AXES)
    for key in block:
        if key not in valid:
            raise HarnessError(f"{where}.{key} is not an axis; {nearest(str(key), valid)}")
    gpus = _listed(block.get("gpu", settings.gpu))
    networks = _listed(block.get("network", settings.networks))
    hosts = _listed(block.get("host", settings.host))
    try:
        clusters = {names: cluster(*names, own=settings.hardware) for names in product(gpus, networks, hosts)}
    except HarnessError as error:
        raise HarnessError(f"{where}: {error}") from error
    zero = {key: _listed(block[key]) for key in ZERO_AXES if key in block}
    matrix = {key: value for key, value in block.items() if key not in CELL_AXES}
    for values in product(*zero.values()):
        for run in _runs(study, matrix, dict(zip(zero, values, strict=True)), where):
            for names, on in clusters.items():
                yield Cell(table, run, *names, on)


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


def _runs(study: Study, matrix: Block, zero: Mapping[str, Any], where: str) -> list[Run]:
    """The runs of a block: the study with this block as its matrix, without the baselines that it does not name."""
    own = {**study.deepspeed.get("zero_optimization", {}), **zero}
    changed = study.model_copy(
        update={"matrix": (matrix,), "deepspeed": {**study.deepspeed, "zero_optimization": own}}
    )
    try:
        return list({run.run_id: run for run in changed._expand(matrix)}.values())
    except KeyError as error:
        raise HarnessError(f"{where} lacks {error.args[0]}") from error
    except HarnessError as error:
        raise HarnessError(f"{where}: {error}") from error
