"""`hpz doctor`: what this machine has, and which known hpZ faults a DeepSpeed release and configuration meet."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from itertools import accumulate
from typing import Literal

from harness.configuration import Remark
from harness.diagnose.faults import Exposure, Frozen, exposures, named, worst_first
from harness.diagnose.setup import Setup
from harness.diagnose.show import WIDTH
from harness.system.build_locks import dead_locks
from harness.system.errors import HarnessError
from harness.variants import installed_release, release_ranges
from harness.variants.sources import resolve

PACKAGES = ("torch", "deepspeed", "transformers", "datasets", "wandb")
_CHROMIUM = ("chromium", "chromium-browser", "google-chrome")


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What this machine has, found without importing torch or DeepSpeed."""

    system: str
    python: str
    cores: int
    """Cores that this process may use."""
    memory_gib: float | None
    gpus: list[str]
    """Names of NVIDIA GPUs, as nvidia-smi gives them."""
    slurm: str | None
    """Version of SLURM, or None."""
    chromium: str | None
    """Path of a Chromium, needed only to test reports."""
    git: str | None
    packages: dict[str, str | None]
    """Package → installed version, or None."""
    build_locks: list[str]
    """Lock files of interrupted builds of C++ extensions, which stop every start that needs them."""
    deepspeed_support: str
    """Whether the installed DeepSpeed can be patched, in words."""


def machine() -> Machine:
    """Looks around; every part that is missing is None or empty, never an error."""
    return Machine(
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        python=platform.python_version(),
        cores=len(os.sched_getaffinity(0)),
        memory_gib=_memory_gib(),
        gpus=(
            _output("nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader") or ""
        ).splitlines(),
        slurm=_output("sbatch", "--version"),
        chromium=next((found for name in _CHROMIUM if (found := shutil.which(name))), None),
        git=_output("git", "--version"),
        packages={name: _version(name) for name in PACKAGES},
        build_locks=[str(lock) for lock in dead_locks()],
        deepspeed_support=deepspeed_support(),
    )


def deepspeed_support() -> str:
    """Whether overlays can be built from the installed DeepSpeed, in words."""
    release = installed_release()
    if release is None:
        return f"not installed; supported: {release_ranges()}"
    try:
        resolve(release)
    except HarnessError as error:
        return str(error)
    return f"{release} is installed, as released, and supported"


class Examination(Frozen):
    """What a setup is exposed to: the answer of `hpz doctor`."""

    schema_version: Literal[2] = 2
    headline: str
    """One line of 80 columns: the worst that applies, and what to do first."""
    setup: str
    """What was examined, in one sentence."""
    release: str | None
    remarks: tuple[Remark, ...]
    """What was odd in the configuration, and what DeepSpeed makes of it."""
    notes: tuple[str, ...]
    """What is assumed."""
    exposures: tuple[Exposure, ...]


FOREMOST = ("no ZeRO++", "no effect: stage")
"""Who sets hpZ believes that it is on."""


class DoctorAnswer(Examination):
    """What `hpz doctor --json` prints; without a configuration it is of the machine alone."""

    machine: Machine


def doctor_answer(here: Machine, found: Examination | None) -> DoctorAnswer:
    nothing = {"headline": "", "setup": "", "release": None, "remarks": (), "notes": (), "exposures": ()}
    return DoctorAnswer(machine=here, **(found.model_dump() if found else nothing))


PREFIX = {
    "wrong": "At risk",
    "stops": "Stops",
    "slow": "Slow",
    "no effect": "No effect",
    "unknown": "Possible",
    "not examined": "Open",
}
IN_FP16 = (
    "in fp16 the first steps may overflow and be skipped, with a gradient norm that is inf or nan, until the loss "
    "scale fits: no fault. Overflows that do not end are fp16's own (hpz doctor --explain 'fp16 overflow'); models "
    "that were pretrained in bf16 often have them"
)
WARNS = ("refused", "ignored")
"""Kinds of remarks on a configuration that come first."""


def examine(setup: Setup) -> Examination:
    """Exposures of a setup. Raises HarnessError for an unusable one."""
    found = [one for one in exposures(setup) if named(one.fault).table != "training"]
    return Examination(
        headline=_headline(setup, found),
        setup=_described(setup, found),
        release=setup.release,
        remarks=setup.remarks,
        notes=tuple(note for note in (setup.release_note, IN_FP16 if setup.dtype == "fp16" else "") if note),
        exposures=tuple(found),
    )


def _headline(setup: Setup, found: list[Exposure]) -> str:
    """What matters most: what the configuration itself gets wrong, then what applies, may apply, is not examined."""
    yes = [one for one in worst_first(found) if one.exposed == "yes" and named(one.fault).confirmed]
    first = [one for one in yes if one.fault in FOREMOST]
    warned = [remark for remark in setup.remarks if remark.kind in WARNS]
    if warned and not first:
        return shorten(str(warned[0]).removeprefix("zero_optimization."), WIDTH)
    bad = [one for one in yes if one.harm in ("wrong", "stops")]
    may = [one for one in worst_first(found) if one.exposed == "unknown" and one.harm == "wrong"]
    may = [one for one in may if named(one.fault).confirmed and not one.of_script]
    unseen = [one for one in found if one.exposed == "not examined" and not named(one.fault).examined]
    for which in (first, bad, yes, may, unseen):
        if which:
            fault = named(which[0].fault)
            return f"{_prefix(which[0])}: {fault.plain}. First: {fault.first}."
    applies, open_ones = (sum(one.exposed == answer for one in found) for answer in ("yes", "unknown"))
    if applies:
        return f"No confirmed fault applies here; not confirmed: {applies} that does, {open_ones} that may."
    return (
        f"No confirmed fault applies here; {open_ones} may." if open_ones else "No known fault applies here."
    )


def _prefix(one: Exposure) -> str:
    """How bad it is; of what others reported and nobody here could show, that."""
    fault = named(one.fault)
    if one.exposed != "yes":
        return PREFIX[one.exposed]
    return "Reported by others" if fault.sure == "reported" else PREFIX[fault.harm]


def _described(setup: Setup, found: list[Exposure]) -> str:
    stage = "unknown" if setup.stage is None else str(setup.stage)
    hpz = f"hpZ {setup.hpz}" if setup.hpz > 1 else "hpZ off"
    yes, may = (sum(one.exposed == answer for one in found) for answer in ("yes", "unknown"))
    return (
        f"DeepSpeed {setup.release or 'of unknown release'}, ZeRO stage {stage}, {hpz}, "
        f"{setup.world_size or 'unknown'} rank{'' if setup.world_size == 1 else 's'}: known faults that apply: {yes}, "
        f"that may: {may}."
    )


def shorten(sentence: str, width: int) -> str:
    """What fits of a sentence: its clauses from the first on, or its beginning."""
    parts = re.split(r"(?<=\w)(?=[;:,] )", sentence)
    fitting = [one for one in accumulate(parts) if len(one) < width]
    return fitting[-1] + "." if fitting else sentence[: width - 1].rstrip() + "…"


def _memory_gib() -> float | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    except (ValueError, OSError):
        return None


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _output(*command: str) -> str | None:
    """The stripped output of a command, or None where there is no such command or it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None
