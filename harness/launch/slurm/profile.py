"""A cluster profile: how one SLURM cluster wants to be asked, from a small YAML file under slurm/clusters/."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, ValidationError, field_validator, model_validator

from harness.study import Frozen
from harness.system.errors import HarnessError, nearest
from harness.system.yaml_file import read_keys

TIME = re.compile(r"(?:\d+-)?\d{1,2}:\d{2}:\d{2}|\d+")
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class Profile(Frozen):
    """One cluster as seen by `hpz submit`; a key left out is not asked for."""

    name: str
    note: str = ""  # for people: who may use it, how throttled it is
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    options: tuple[str, ...] = ()  # further sbatch options, as --mail-type=END
    job_name: str | None = None  # default: hpz-<study>
    max_nodes: int | None = Field(default=None, ge=1)  # larger studies are refused before sbatch sees them
    gpus_per_node: int = Field(default=0, ge=0)
    cpus_per_rank: int | None = Field(default=None, ge=1)
    memory_per_node: str | None = None  # sbatch's --mem; "0" is all of a node's
    exclusive: bool = False
    time: str = "04:00:00"  # of one pair group; a longer one goes on after a requeue
    signal_lead_seconds: int = Field(default=300, ge=10)  # before the limit: time for a step and a checkpoint
    throttle: int | None = Field(default=None, ge=1)  # pair groups at a time
    max_array_size: int = Field(default=1001, ge=1)  # scontrol show config | grep MaxArraySize
    restarts: int = Field(default=20, ge=0)  # times that a group may go on in a new allocation
    attempts: int = Field(default=3, ge=1)  # starts of a run in one allocation whose ranks were killed
    blocks: int = Field(default=2, ge=1)  # turns that the variants of a group take in their allocation
    setup: tuple[str, ...] = ()  # shell lines before anything runs, as module load cuda
    container: tuple[str, ...] = ()  # words before python, as [apptainer, exec, --nv, image.sif]
    srun_options: tuple[str, ...] = ()
    environment: dict[str, str] = Field(default={})  # of the ranks: NCCL and gloo settings
    network_interface: str | None = None  # whose byte counter each step records
    shapes_links: bool = False  # jobs may limit that interface (as root), for studies with a link axis
    network_baseline: bool = True  # measure the network before a group's first run
    groups_across_nodes: bool = False  # let an hpZ group cross nodes; recorded with the run
    stalled_after_seconds: float = Field(default=300, gt=0)  # without a heartbeat
    wandb: Literal["offline", "online", "off"] | None = (
        None  # at a task's end; default: WANDB_MODE or offline
    )
    python: str | None = None  # on the compute nodes; default: the one that submits
    local_cluster: str | None = None  # reach SLURM inside this `hpz cluster`, not on this machine

    @field_validator("time")
    @classmethod
    def _time_is_slurms(cls, value: str) -> str:
        if not TIME.fullmatch(value):
            raise ValueError("write HH:MM:SS, D-HH:MM:SS or minutes, in quotes")
        return value

    @model_validator(mode="after")
    def _asked_to_stop_after_the_start(self) -> Self:
        if self.signal_lead_seconds >= (limit := seconds(self.time)):
            raise ValueError(
                f"signal_lead_seconds ({self.signal_lead_seconds}) must be below the time limit ({self.time}, "
                f"{limit} s): a job would be asked to stop as soon as it starts"
            )
        return self

    @field_validator("wandb", mode="before")
    @classmethod
    def _off_is_no_boolean(cls, value: object) -> object:
        return "off" if value is False else value  # what YAML makes of a bare off

    @field_validator("environment")
    @classmethod
    def _variables_are_named(cls, value: dict[str, str]) -> dict[str, str]:
        for name in value:
            if not VARIABLE.fullmatch(name):
                raise ValueError(f"{name!r} is no name of an environment variable")
        return value

    @field_validator("options", "srun_options")
    @classmethod
    def _options_are_options(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for option in value:
            if not option.startswith("--") or "\n" in option:
                raise ValueError(f"{option!r} is no option; write one --name=value an item")
        return value

    @field_validator("job_name", "partition", "account", "qos", "constraint", "memory_per_node")
    @classmethod
    def _one_line(cls, value: str | None) -> str | None:
        if value is not None and not value.isprintable():
            raise ValueError("must be one line of printable text")
        return value


def seconds(time: str) -> int:
    """A time limit of SLURM's: D-HH:MM:SS, HH:MM:SS or minutes."""
    days, dash, clock = time.rpartition("-")
    if ":" not in clock:
        return int(clock) * 60
    hours, minutes, rest = map(int, clock.split(":"))
    return ((int(days) if dash else 0) * 24 + hours) * 3600 + minutes * 60 + rest


def load_profile(path: str | Path) -> Profile:
    """Read a profile. Raises HarnessError naming file and key, with the nearest valid key."""
    file = Path(path)
    content = read_keys(file, "--cluster takes a profile, as slurm/clusters/generic-8gpu.yaml")
    try:
        return Profile.model_validate({"name": file.stem, **content})
    except ValidationError as error:
        raise HarnessError(f"{file}: {_sentence(error)}") from error


def _sentence(error: ValidationError) -> str:
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return f"{where} is not a key; {nearest(where, Profile.model_fields)}"
    message = first["msg"].removeprefix("Value error, ")
    return f"{where}: {message} (given: {first['input']!r})" if where else message
