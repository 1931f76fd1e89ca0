"""`hpz doctor`: what this machine has, and which known hpZ faults a DeepSpeed release and configuration meet."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from math import prod
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from harness.cli.console import wide_console
from harness.diagnose.faults import Exposure, exposures
from harness.diagnose.setup import Setup
from harness.study.models import load_model_file, parameter_shapes
from harness.system.errors import HarnessError
from harness.variants import installed_release, supported_releases
from harness.variants.series import load_series
from harness.variants.sources import check_pristine, release_source

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
    release, supported = installed_release(), ", ".join(supported_releases())
    if release is None:
        return f"not installed; supported: {supported}"
    if release not in supported_releases():
        return f"{release} is installed and not supported; supported: {supported}"
    try:
        check_pristine(load_series(release), release_source(release))
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
    """Parameter sizes from a model file (as in experiments/models) or from a text; None where neither is given."""
    if model and sizes:
        raise HarnessError("--model and --sizes both give parameter sizes; give one of them")
    if model:
        return tuple(prod(shape) for _, shape in parameter_shapes(load_model_file(model)))
    return parameter_sizes(sizes) if sizes else None


def parameter_sizes(text: str) -> tuple[int, ...]:
    """Sizes from a text such as `4096x11008,4096`: dimensions joined by x, parameters by commas. HarnessError."""
    try:
        return tuple(prod(int(n) for n in word.split("x")) for word in text.replace(" ", "").split(","))
    except ValueError as error:
        raise HarnessError(f"--sizes: {text!r} is not a list such as 4096x11008,4096") from error


def doctor(
    config: Annotated[Path | None, typer.Option(help="A DeepSpeed JSON configuration to examine.")] = None,
    world_size: Annotated[int | None, typer.Option(help="Ranks in all.")] = None,
    ranks_per_node: Annotated[int | None, typer.Option(help="Ranks on one node.")] = None,
    release: Annotated[
        str | None, typer.Option(help="DeepSpeed release; default: the installed one.")
    ] = None,
    model: Annotated[Path | None, typer.Option(help="A model file, for its parameter sizes.")] = None,
    sizes: Annotated[
        str | None, typer.Option(help="Parameter shapes instead, such as 4096x11008,4096.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Machine-readable output on standard output.")
    ] = False,
) -> None:
    """What this machine has, and which known hpZ faults a release and configuration are exposed to.

    Example: hpz doctor --config ds_config.json --world-size 48 --release 0.13.4 --sizes 4096x11008,4096
    """
    here = machine()
    numels = model_sizes(model, sizes)
    examined = examine(config, release, world_size, ranks_per_node, numels) if config else None
    if as_json:
        found = [asdict(one) for one in examined[1]] if examined else []
        of_release = examined[0].release if examined else None
        print(json.dumps({"machine": asdict(here), "release": of_release, "exposures": found}, indent=2))
        return
    console = wide_console()
    console.print(_machine_table(here))
    if examined:
        console.print(_exposure_table(*examined))
    else:
        console.print(
            "To examine a training: hpz doctor --config ds_config.json --world-size N --ranks-per-node M"
        )


def _machine_table(here: Machine) -> Table:
    table = Table("this machine", "", show_header=False, title="This machine")
    table.add_row("system", f"{here.system}, Python {here.python}")
    table.add_row("cores", str(here.cores))
    table.add_row("memory", f"{here.memory_gib:.1f} GiB" if here.memory_gib else "unknown")
    table.add_row("GPU", "\n".join(here.gpus) or "none: trainings run on the CPU and on the virtual device")
    table.add_row("SLURM", here.slurm or "none: studies run on this machine")
    table.add_row("Chromium", here.chromium or "none: needed only to test reports")
    table.add_row("git", here.git or "none: needed to apply patches")
    for name, found in here.packages.items():
        table.add_row(name, found or "not installed")
    table.add_row("patches", here.deepspeed_support)
    return table


def _exposure_table(setup: Setup, found: list[Exposure]) -> Table:
    title = (
        f"Known hpZ faults: DeepSpeed {setup.release}, hpZ {setup.hpz}, world {setup.world_size or 'unknown'}"
    )
    table = Table("fault", "exposed", "reason", "way out", title=title)
    table.add_column("source", overflow="fold")
    styles = {"yes": "bold red", "unknown": "yellow", "no": "green"}
    for one in found:
        answer = f"[{styles[one.exposed]}]{one.exposed}[/]"
        table.add_row(one.fault, answer, one.reason, one.way_out, one.source)
    return table


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
