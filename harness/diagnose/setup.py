"""What decides about exposure to a fault: a release and a training's settings, checked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from harness.configuration import Remark
from harness.system.errors import HarnessError
from harness.variants import supported_releases
from harness.variants.families import version_key

NUMBERS = 3
"""How many numbers make a release; one such as 0.13.4.post1 is judged as 0.13.4."""
Dtype = Literal["fp16", "bf16", "fp32"]


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What decides about exposure: a release, and what is known of the training.

    `harness.diagnose.read.read_setup` makes one of what people have, for every command alike.
    """

    release: str | None
    config: dict[str, Any]
    """The DeepSpeed JSON configuration as DeepSpeed takes it; values of `"auto"` are not known."""
    has_config: bool = True
    """False where no configuration is known; then `config` is empty."""
    world_size: int | None = None
    ranks_per_node: int | None = None
    numels: tuple[int, ...] | None = None
    """Number of elements of each parameter of the model, where known."""
    torch: str | None = None
    transformers: str | None = None
    facts: frozenset[str] = frozenset()
    """What no key of DeepSpeed says, in the words of `harness.configuration.facts`."""
    facts_read: bool = False
    """Whether a training script was read, so that what is not among the facts is not so."""
    remarks: tuple[Remark, ...] = ()
    """What was odd in the configuration, and what DeepSpeed makes of it."""
    release_note: str = ""
    """A sentence on how the release was found, where it was not simply given."""
    release_from: str = "given"
    release_until: str | None = None
    """Of a build between two releases: the later one, whose changes may be in it."""

    @property
    def zero(self) -> dict[str, Any]:
        """The `zero_optimization` section."""
        section: dict[str, Any] = self.config.get("zero_optimization") or {}
        return section

    @property
    def stage(self) -> int | None:
        """ZeRO's stage; None where the configuration leaves it open."""
        stage = self.zero.get("stage", 0)
        return stage if isinstance(stage, int) else None

    @property
    def stage3(self) -> bool:
        return self.stage == 3

    @property
    def hpz_asked(self) -> int:
        """Ranks in an hpZ group as written, whatever the stage; 1 where nothing is."""
        size = self.zero.get("zero_hpz_partition_size", 1)
        return size if isinstance(size, int) and size > 1 else 1

    @property
    def hpz(self) -> int:
        """Ranks in an hpZ group; 1 where hpZ is off."""
        return self.hpz_asked if self.stage3 else 1

    @property
    def overlap(self) -> bool | None:
        """Whether communication has a stream of its own; absent, that is so for stage 3 alone. None where not known."""
        given = self.zero.get("overlap_comm")
        return self.stage3 if given is None else given if isinstance(given, bool) else None

    @property
    def accumulation(self) -> int | None:
        """Micro-batches a step, given or by the batch sizes, as DeepSpeed derives it; None where not known."""
        given = self.config.get("gradient_accumulation_steps")
        whole, micro = (self.config.get(f"train_{key}") for key in ("batch_size", "micro_batch_size_per_gpu"))
        if given is None and isinstance(whole, int) and isinstance(micro, int) and micro and self.world_size:
            return max(1, whole // (micro * self.world_size))
        if given is None:
            return 1
        return given if isinstance(given, int) else None

    @property
    def dtype(self) -> Dtype | None:
        """The precision of the parameters; None where the configuration leaves it to someone else."""
        half: tuple[Dtype, ...] = ("bf16", "fp16")
        said = {name: (self.config.get(name) or {}).get("enabled", False) for name in half}
        found = next((name for name in half if said[name] is True), None)
        return found or (None if "auto" in said.values() or not self.has_config else "fp32")

    @property
    def offload_param(self) -> str | None:
        """The device that parameters are kept on; None for the GPU itself."""
        return self._offload("offload_param")

    @property
    def offload_optimizer(self) -> str | None:
        """The device that the optimizer's state is kept on; None for the GPU itself."""
        return self._offload("offload_optimizer")

    def _offload(self, key: str) -> str | None:
        device = (self.zero.get(key) or {}).get("device")
        return None if device in (None, "none") else str(device)

    def within(self, first: str, last: str | None) -> bool:
        """Whether the release is `first`, `last` or one between; without a `last`, any from `first` on."""
        if self.release is None:
            return False
        key = version_key(self.release)[:NUMBERS]
        return version_key(first) <= key and (last is None or key <= version_key(last))


def judged_as(release: str) -> str:
    """A sentence on what is assumed of a release that is not a known one; empty for those."""
    known = supported_releases()
    key = version_key(release)[:NUMBERS]
    before = [one for one in known if version_key(one) <= key]
    if not before:
        return (
            f"{release} is older than the first release with hpZ, {known[0]}; no fault of hpZ is in it, "
            "and ZeRO-3's own were not looked for there"
        )
    if version_key(before[-1]) == key:
        return ""
    what = f"newer than the newest known release, {known[-1]}" if before == known else "not a known release"
    return f"{release} is {what}; judged as " + ("that" if before == known else before[-1])


STAGES = (0, 1, 2, 3)
MOST_RANKS = 1_000_000  # more than any cluster has
OBJECTS = (  # outer ones first
    ("zero_optimization",),
    ("zero_optimization", "offload_param"),
    ("zero_optimization", "offload_optimizer"),
    ("timers",),
    ("timers", "throughput"),
)


def check(setup: Setup) -> None:
    """Refuses what no answer can be given for, with the key."""
    if setup.release is not None and len(version_key(setup.release)) < NUMBERS:
        raise HarnessError(f"release: {setup.release!r} is not a version such as 0.13.4")
    if setup.torch is not None and len(version_key(setup.torch)) < 2:
        raise HarnessError(f"torch: {setup.torch!r} is not a version such as 2.4.0")
    for path in OBJECTS:
        _check_object(setup.config, path)
    stage = setup.zero.get("stage", 0)
    if stage not in STAGES or isinstance(stage, bool):
        raise HarnessError(f"config: zero_optimization.stage={stage!r} is none of DeepSpeed's: 0, 1, 2, 3")
    size = setup.zero.get("zero_hpz_partition_size", 1)
    if size != "auto" and (
        not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= MOST_RANKS
    ):
        raise HarnessError(
            f"config: zero_optimization.zero_hpz_partition_size={size!r} must be a whole number, "
            "as many as the GPUs of a node"
        )
    for key, value in (("world size", setup.world_size), ("ranks per node", setup.ranks_per_node)):
        if value is not None and not 1 <= value <= MOST_RANKS:
            raise HarnessError(f"the {key} must be between 1 and {MOST_RANKS:,}, not {value}")
    if setup.world_size is not None and setup.world_size % setup.hpz:
        raise HarnessError(
            f"config: zero_optimization.zero_hpz_partition_size={setup.hpz} must divide the world size "
            f"{setup.world_size}; use {_divisors(setup.world_size)}"
        )


def _check_object(config: dict[str, Any], path: tuple[str, ...]) -> None:
    """Refuses a value that is no object where the questions look into one; an absent or null one has no keys."""
    inner: Any = config
    for key in path:
        inner = inner.get(key) or {}
    if not isinstance(inner, dict):
        raise HarnessError(f"config: {'.'.join(path)} must be an object, not {inner!r}")


def _divisors(number: int) -> str:
    return ", ".join(str(d) for d in range(1, number + 1) if number % d == 0)
