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
from typing import Any, Literal

from harness.diagnose.faults import Exposure, Frozen, exposures, named, worst_first
from harness.diagnose.setup import Setup
from harness.diagnose.show import WIDTH
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
    build_locks: list[str]
    """Lock files of builds of C++ extensions: where no build is running, they are dead and stop every start."""
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
        build_locks=dead_locks(),
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


class Examination(Frozen):
    """What a setup is exposed to: the answer of `hpz doctor`."""

    schema_version: Literal[2] = 2
    headline: str
    """One line of 80 columns: the worst that applies, and what to do first."""
    setup: str
    """What was examined, in one sentence."""
    release: str | None
    notes: tuple[str, ...]
    """What was odd about the input, what is assumed."""
    exposures: tuple[Exposure, ...]


PREFIX = {"wrong": "At risk", "stops": "It will stop", "slow": "Slow", "no effect": "No effect"}
WARNS = ("refused", "ignored")
"""Kinds of remarks on a configuration that come first."""


def examine(setup: Setup) -> Examination:
    """Exposures of a setup. Raises HarnessError for an unusable one."""
    found = [one for one in exposures(setup) if named(one.fault).table != "training"]
    yes = worst_first([one for one in found if one.exposed == "yes"])
    open_ones = [one for one in found if one.exposed == "unknown" and one.harm in ("wrong", "stops")]
    warned = [str(remark) for remark in setup.remarks if getattr(remark, "kind", "") in WARNS]
    if warned:
        headline = shorten(warned[0], WIDTH)
    elif yes:
        fault = named(yes[0].fault)
        headline = f"{PREFIX[fault.harm]}: {fault.plain}. First: {fault.first}."
    elif open_ones:
        headline = f"No known fault is certain here; {len(open_ones)} may apply, see what they need."
    else:
        headline = "No known fault applies to this setup."
    notes = [*map(str, setup.remarks), *([setup.release_note] if setup.release_note else [])]
    return Examination(
        headline=headline,
        setup=_described(setup, len(yes), sum(one.exposed == "unknown" for one in found)),
        release=setup.release,
        notes=tuple(notes),
        exposures=tuple(found),
    )


def _described(setup: Setup, yes: int, unknown: int) -> str:
    stage = "unknown" if setup.stage is None else str(setup.stage)
    hpz = f"hpZ {setup.hpz}" if setup.hpz > 1 else "hpZ off"
    return (
        f"DeepSpeed {setup.release or 'of unknown release'}, ZeRO stage {stage}, {hpz}, "
        f"{setup.world_size or 'unknown'} ranks: {yes} known faults apply, {unknown} may."
    )


def shorten(sentence: str, width: int) -> str:
    return sentence if len(sentence) <= width else sentence[: width - 1].rstrip() + "…"


def dead_locks(folder: Path | None = None) -> list[str]:
    """Lock files of builds of C++ extensions; one that no build holds stops every start."""
    root = folder or Path(os.environ.get("TORCH_EXTENSIONS_DIR", Path.home() / ".cache" / "torch_extensions"))
    return [str(lock) for lock in sorted(root.glob("**/lock"))]


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
