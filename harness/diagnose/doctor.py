"""`hpz doctor`: what this machine has, and which known hpZ faults a DeepSpeed release and configuration meet."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from math import prod
from pathlib import Path
from typing import Any

from harness.diagnose.faults import Exposure, exposures
from harness.diagnose.setup import Setup
from harness.study import any_model, parameter_shapes
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


def load_config(path: Path) -> dict[str, Any]:
    """A DeepSpeed JSON configuration. Raises HarnessError naming the file, and the line where it is not JSON."""
    try:
        config = json.loads(path.read_text())
    except OSError as error:
        raise HarnessError(
            f"{path}: cannot be read ({error.strerror}); name a DeepSpeed JSON file"
        ) from error
    except UnicodeDecodeError as error:
        raise HarnessError(f"{path}: not text in UTF-8; name a DeepSpeed JSON file") from error
    except json.JSONDecodeError as error:
        raise HarnessError(f"{path}: line {error.lineno}: not JSON ({error.msg})") from error
    if not isinstance(config, dict):
        raise HarnessError(f"{path}: must hold one JSON object, DeepSpeed's configuration")
    return config


def examine(
    config: Path,
    release: str | None = None,
    world_size: int | None = None,
    ranks_per_node: int | None = None,
    numels: tuple[int, ...] | None = None,
) -> tuple[Setup, list[Exposure]]:
    """Exposures of one configuration file under `release` (default: the installed one). Raises HarnessError."""
    wanted = release or installed_release()
    if wanted is None:
        raise HarnessError("DeepSpeed is not installed here; name a release, for example --release 0.13.4")
    setup = Setup(
        release=wanted,
        config=load_config(config),
        world_size=world_size,
        ranks_per_node=ranks_per_node,
        numels=numels,
    )
    try:
        return setup, exposures(setup)
    except HarnessError as error:
        raise HarnessError(f"{config}: {error}") from error


def model_sizes(model: Path | None, sizes: str | None) -> tuple[int, ...] | None:
    """Parameter sizes from a model (`harness.study.any_model`) or from a text; None where neither is given."""
    if model and sizes:
        raise HarnessError("--model and --sizes both give parameter sizes; give one of them")
    if model:
        return tuple(prod(shape) for _, shape in parameter_shapes(any_model(model)))
    return parameter_sizes(sizes) if sizes else None


def parameter_sizes(text: str) -> tuple[int, ...]:
    """Sizes from a text such as `4096x11008,4096`: dimensions joined by x, parameters by commas. HarnessError."""
    try:
        return tuple(prod(int(n) for n in word.split("x")) for word in text.replace(" ", "").split(","))
    except ValueError as error:
        raise HarnessError(f"--sizes: {text!r} is not a list such as 4096x11008,4096") from error


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
