"""`hpz doctor`: what this machine has."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

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
