"""What surrounds a run on the node of its rank 0: packages, driver, NCCL, topology, network, variables without secrets.

A line of environment.jsonl in the run directory each time that a start finds something else than the one before.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
from collections.abc import Mapping
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

from harness.record.directory import RunDirectory
from harness.record.provenance import PACKAGES
from harness.system.secrets import hidden, without_secrets
from harness.system.utc import utc_now

NAME = "environment.jsonl"
ASK_SECONDS = 20.0  # a driver that hangs holds no run up for longer
# What can change a number or a speed; the rest of a user's environment is nobody's business.
VARIABLES = (
    *("NCCL_", "GLOO_", "UCX_", "FI_", "AWS_OFI_", "CUDA_", "NVIDIA_", "TORCH", "PYTORCH_", "OMP_", "MKL_"),
    *(
        "OPENBLAS_",
        "KMP_",
        "HF_",
        "TRANSFORMERS_",
        "TOKENIZERS_",
        "DS_",
        "DEEPSPEED_",
        "HPZ_",
        "SLURM_",
        "PYTHON",
    ),
    *(
        "MASTER_ADDR",
        "LD_LIBRARY_PATH",
        "LD_PRELOAD",
        "APPTAINER_",
        "SINGULARITY_",
        "PYXIS_",
        "ENROOT_",
        "WANDB_",
    ),
)
GPU_FIELDS = ("index", "name", "driver_version", "vbios_version", "memory.total", "pci.bus_id", "power.limit")


def record_environment(directory: RunDirectory, torch: Mapping[str, str | None]) -> None:
    """Append what is found here to a run's environment.jsonl; `torch` are versions that only torch can tell.

    What cannot be found out is left out, and nothing that goes wrong here may harm the run.
    """
    try:
        found = surroundings(torch)
        file = directory.path / NAME
        if not (lines := _lines(file)) or found != {k: v for k, v in lines[-1].items() if k != "utc"}:
            with file.open("a") as stream:
                stream.write(hidden(json.dumps({"utc": utc_now(), **found})) + "\n")
    except (OSError, ValueError) as error:
        print(f"hpz: the environment was not recorded: {error}")


def environments(directory: RunDirectory) -> list[dict[str, Any]]:
    """What was recorded of a run's surroundings, the oldest first."""
    return _lines(directory.path / NAME)


def recorded_versions(directory: RunDirectory) -> dict[str, str | None] | None:
    """What `package_versions` is in the ranks' own surroundings, as in a container; None where no rank has said."""
    if not (lines := environments(directory)):
        return None
    packages = {name.lower(): version for name, version in lines[-1]["packages"].items()}
    return {"python": lines[-1]["python"], **{name: packages.get(name) for name in PACKAGES}}


def surroundings(torch: Mapping[str, str | None]) -> dict[str, Any]:
    """Everything that is recorded, but for the time."""
    return {
        "schema": 1,
        "host": platform.node(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "processor": _processor(),
        "python": platform.python_version(),
        "torch": dict(torch),
        "packages": installed_packages(),
        "gpus": _gpus(),
        "topology": _said(["nvidia-smi", "topo", "-m"]),
        "network": _network(),
        "variables": without_secrets(
            {name: value for name, value in os.environ.items() if name.startswith(VARIABLES)}
        ),
    }


def _lines(file: Path) -> list[dict[str, Any]]:
    """Whole lines only: a rank may have been killed while it wrote one."""
    found = []
    for text in file.read_text().splitlines() if file.exists() else []:
        try:
            found.append(json.loads(text))
        except ValueError:
            continue
    return found


@lru_cache(maxsize=1)
def installed_packages() -> dict[str, str]:
    """Every package that Python can import here, by name, with its version."""
    named = ((d.metadata["Name"], d.version) for d in metadata.distributions())
    return dict(sorted((name, version) for name, version in named if name))


def _gpus() -> list[dict[str, str]]:
    table = _said(["nvidia-smi", f"--query-gpu={','.join(GPU_FIELDS)}", "--format=csv,noheader"])
    rows = [line.split(", ") for line in (table or "").splitlines()]
    return [dict(zip(GPU_FIELDS, row, strict=True)) for row in rows if len(row) == len(GPU_FIELDS)]


def _said(command: list[str]) -> str | None:
    """What a program prints; None where there is none, or it fails."""
    if shutil.which(command[0]) is None:
        return None
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=ASK_SECONDS)
    except subprocess.TimeoutExpired:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _processor() -> str | None:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or None
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), None)


def _network() -> dict[str, str]:
    """Interfaces that are up with their speed in Mbit/s, and the rate of InfiniBand's ports."""
    found = {}
    for interface in sorted(Path("/sys/class/net").glob("*")):
        if interface.name != "lo" and _read(interface / "operstate") in ("up", "unknown"):
            speed = _read(interface / "speed") or ""
            found[interface.name] = f"{speed} Mbit/s" if speed.isdigit() else "speed unknown"
    for port in sorted(Path("/sys/class/infiniband").glob("*/ports/*")):
        found[f"{port.parts[-3]}/{port.name}"] = _read(port / "rate") or "rate unknown"
    return found


def _read(file: Path) -> str | None:
    try:
        return file.read_text().strip()
    except OSError:
        return None  # as of an interface that has no speed
