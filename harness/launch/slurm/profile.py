"""A cluster profile: how one SLURM cluster wants to be asked, from a small YAML file under slurm/clusters/."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator

from harness.launch.slurm.container import Container
from harness.launch.slurm.health import Health
from harness.launch.slurm.site import Site
from harness.study import Frozen
from harness.system.errors import HarnessError
from harness.system.messages import first_message
from harness.system.places import shipped
from harness.system.secrets import hidden, is_secret, refuse_secrets
from harness.system.yaml_file import read_keys

TIME = re.compile(r"(?:\d+-)?\d{1,2}:\d{2}:\d{2}|\d+")
AFTER = re.compile(r"(?:(after|afterany|afterok|afternotok|aftercorr):)?(\d+(?:_\d+)?(?:\+\d+)?)")
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def seconds_of(text: str) -> int:
    """SLURM's 1-02:03:04, 02:03:04 or 03:04 in seconds. Raises ValueError on anything else."""
    days, _, clock = text.rpartition("-")
    seconds = 0
    for part in clock.split(":"):
        seconds = 60 * seconds + int(part)
    return 86400 * int(days or 0) + seconds


class Profile(Frozen):
    """One cluster as seen by `hpz submit`; a key left out is not asked for."""

    name: str  # default: the file's
    note: str = ""  # for people: who may use it, how throttled it is
    partition: str | None = None  # sbatch's --partition
    account: str | None = None  # sbatch's --account
    qos: str | None = None  # sbatch's --qos
    constraint: str | None = None  # sbatch's --constraint
    options: tuple[str, ...] = ()  # further sbatch options, as --segment=4
    after: tuple[str, ...] = ()  # other jobs to wait for: 1234 (ended well), or afterany:1234
    mail: str | None = None  # SLURM writes to this address
    mail_on: tuple[str, ...] = ("END", "FAIL")  # of what: sbatch's --mail-type
    job_name: str | None = None  # default: hpz-<study>
    notify: str | None = None  # shell line that tasks tell of runs, and of the study, that ended
    max_nodes: int | None = Field(default=None, ge=1)  # larger studies are refused before sbatch sees them
    gpus_per_node: int = Field(default=0, ge=0)  # 0: none is asked for
    cpus_per_rank: int | None = Field(default=None, ge=1)  # sbatch's --cpus-per-task
    memory_per_node: str | None = None  # sbatch's --mem; "0" is all of a node's
    exclusive: bool = False  # whole nodes
    time: str = "04:00:00"  # of one pair group; a longer one goes on after a requeue
    signal_lead_seconds: int = Field(default=300, ge=10)  # before the limit: time for a step and a checkpoint
    budget: float | None = Field(
        default=None, gt=0
    )  # GPU-hours of a study (rank-hours without GPUs); not beyond
    throttle: int | None = Field(default=None, ge=1)  # pair groups at a time
    max_array_size: int | None = Field(default=None, ge=1)  # where it is to be less than SLURM says itself
    restarts: int = Field(default=20, ge=0)  # times that a group may go on in a new allocation
    attempts: int = Field(default=3, ge=1)  # starts of a run in one allocation whose ranks were killed
    blocks: int = Field(default=2, ge=1)  # turns that the variants of a group take in their allocation
    setup: tuple[str, ...] = ()  # shell lines before anything runs, as module load cuda
    container: Container | None = (
        None  # pyxis: {image: …}, apptainer: {image: …}, or a list of words before python
    )
    srun_options: tuple[str, ...] = ()  # further srun options, as --mpi=none
    environment: dict[str, str] = Field(default={})  # of the ranks: NCCL and gloo settings
    network_interface: str | None = None  # whose byte counter each step records
    shapes_links: bool = False  # jobs may limit that interface (as root), for studies with a link axis
    network_baseline: bool = True  # measure the network before a group's first run
    health: Health | None = Health()  # what a node must have before a group starts; false: nobody looks
    groups_across_nodes: bool = False  # let an hpZ group cross nodes; recorded with the run
    stalled_after_seconds: float = Field(default=300, gt=0)  # without a heartbeat
    wandb: Literal["offline", "online", "off"] | None = (
        None  # at a task's end; default: WANDB_MODE or offline
    )
    python: str | None = None  # on the compute nodes; default: the one that submits
    site: Site | None = None  # reach the cluster by ssh: {ssh: HOST, folder: /ABSOLUTE/THERE}
    local_cluster: str | None = None  # reach SLURM inside this `hpz cluster`, not on this machine

    @property
    def limit_seconds(self) -> int:
        """`time` in seconds."""
        return seconds_of(self.time if ":" in self.time else f"{self.time}:00")

    @property
    def dependency(self) -> str:
        """`after` as sbatch's --dependency: all of them must be fulfilled."""
        parts = (match.groups() for text in self.after if (match := AFTER.fullmatch(text)))
        return ",".join(f"{kind or 'afterok'}:{job}" for kind, job in parts)

    def content(self) -> dict[str, Any]:
        """What a file holds that says the same."""
        return self.model_dump(mode="json", exclude_defaults=True) | {"name": self.name}

    @field_validator("after", mode="before")
    @classmethod
    def _after_is_a_list(cls, value: object) -> object:
        items = value if isinstance(value, list | tuple) else [value]
        return [str(item) for item in items]  # YAML reads a bare job id as a number

    @field_validator("after")
    @classmethod
    def _after_names_jobs(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for text in value:
            if not AFTER.fullmatch(text):
                raise ValueError(f"{text!r} names no job; write 1234, 1234_5 or afterany:1234")
        return value

    @field_validator("mail_on")
    @classmethod
    def _mail_types_are_words(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for word in value:
            if not re.fullmatch(r"[A-Z][A-Z_0-9]*", word):
                raise ValueError(f"{word!r} is no type of mail; write words of sbatch's --mail-type, as END")
        return value

    @field_validator("time")
    @classmethod
    def _time_is_slurms(cls, value: str) -> str:
        if not TIME.fullmatch(value):
            raise ValueError("write HH:MM:SS, D-HH:MM:SS or minutes, in quotes")
        return value

    @field_validator("wandb", mode="before")
    @classmethod
    def _off_is_no_boolean(cls, value: object) -> object:
        return "off" if value is False else value  # what YAML makes of a bare off

    @field_validator("health", mode="before")
    @classmethod
    def _false_is_no_health(cls, value: object) -> object:
        return None if value is False else value

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

    @field_validator("job_name", "partition", "account", "qos", "constraint", "memory_per_node", "mail")
    @classmethod
    def _one_line(cls, value: str | None) -> str | None:
        if value is not None and not value.isprintable():
            raise ValueError("must be one line of printable text")
        return value


def with_options(profile: Profile, given: Mapping[str, Any]) -> Profile:
    """The profile with keys from the command line in place of its own. Raises HarnessError naming the option."""
    changes = {key: value for key, value in given.items() if value not in (None, [])}
    try:
        return Profile.model_validate(profile.content() | changes)
    except ValidationError as error:
        raise HarnessError(f"--{first_message(error, Profile)}") from error


def load_profile(path: str | Path) -> Profile:
    """Read a profile. Raises HarnessError naming file and key, with the nearest valid key."""
    file = shipped(Path(path))
    content = read_keys(file, "--cluster takes a profile, as slurm/clusters/generic-8gpu.yaml")
    try:
        profile = Profile.model_validate({"name": file.stem, **content})
    except ValidationError as error:
        raise HarnessError(f"{file}: {hidden(first_message(error, Profile))}") from error
    for name, value in profile.environment.items():
        if is_secret(name, value):
            raise HarnessError(
                f"{file}: environment.{name} holds a secret, which would be written into the batch script; export it "
                f"in the shell that submits, or read it from a file in a setup line: export {name}=$(cat FILE)"
            )
    refuse_secrets(file, "what it says is written into the batch script")
    return profile
