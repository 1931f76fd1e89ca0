"""`make matrix`: the invariants of the virtual device and of the race analysis, on each torch that is supported.

Each torch gets an environment of its own, one at a time; what lies there takes gigabytes and is deleted when its tests
are done (kept with `nox --reuse-existing-virtualenvs`). The tests run twice there: all of them with the DeepSpeed of
constraints.txt, and those of the installed DeepSpeed with a release of that torch's time. Each run replaces its line in
tests/matrix.md. `nox -s "matrix(torch='2.6.0')"` does one of them.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import NamedTuple

import nox

nox.needs_version = ">=2024.4.15"
nox.options.default_venv_backend = "venv"
ROOT = Path(__file__).parent


class Pins(NamedTuple):
    """What goes with a torch; all else is as in constraints.txt."""

    transformers: str
    deepspeed: str | None = None  # also tried as installed: a release of that torch's time


MATRIX = {
    "2.4.1": Pins(transformers="4.46.3", deepspeed="0.14.5"),
    "2.6.0": Pins(transformers="4.51.3", deepspeed="0.16.9"),
    "2.8.0": Pins(transformers="4.56.2", deepspeed="0.17.6"),
    "2.13.0": Pins(transformers="5.24.0"),
    "2.14.1": Pins(transformers="5.24.0"),
}
# What torch and transformers themselves bind to a release; the rest of constraints.txt holds everywhere.
BOUND = {"torch", "deepspeed", "transformers", "tokenizers", "huggingface_hub", "sympy", "fsspec", "datasets"}
QUICKLY = ("-q", "--no-compile")  # most of what comes with torch is never imported
NEEDED = (
    "accelerate",
    "hypothesis",
    "jsonschema",
    "ninja",
    "psutil",
    "pytest",
    "pytest-timeout",
    "pytest-xdist",
)

INSTALLED = ("tests/deepspeed/variants/test_installed.py",)
INVARIANTS = (
    "tests/unit/device",
    "tests/unit/race",
    "tests/deepspeed/device/test_virtual_device.py",
    "tests/deepspeed/race/test_race_planted.py",
    "tests/deepspeed/race/test_race_programs.py",
    "tests/deepspeed/race/test_race_scripts.py",
    *INSTALLED,
)


@nox.session
@nox.parametrize("torch", list(MATRIX))
def matrix(session: nox.Session, torch: str) -> None:
    """Test one torch and write its lines of tests/matrix.md."""
    pins, folder = MATRIX[torch], Path(session.create_tmp())
    constraints = folder / "constraints.txt"
    current = write_constraints(constraints)
    try:
        bound = (f"torch=={torch}", f"transformers=={pins.transformers}")
        session.install(*QUICKLY, "-c", str(constraints), *bound, *NEEDED, "setuptools", "wheel", "-e", ".")
        passed = try_deepspeed(session, current, INVARIANTS)
        if pins.deepspeed:
            passed &= try_deepspeed(session, pins.deepspeed, INSTALLED)
    finally:
        if not session.virtualenv.reuse_existing:
            shutil.rmtree(session.virtualenv.location)
    if not passed:
        session.error("some tests failed; tests/matrix.md names them")


def try_deepspeed(session: nox.Session, release: str, tests: tuple[str, ...]) -> bool:
    """Install a DeepSpeed over what is there, run the tests and note the result: whether all passed."""
    report = Path(session.create_tmp()) / f"{release}.xml"
    report.unlink(missing_ok=True)
    constraints = report.with_name("constraints.txt")
    # Its setup.py imports the torch that is there, and nothing is compiled.
    session.install(
        *(*QUICKLY, "-c", str(constraints), "--no-build-isolation", f"deepspeed=={release}"),
        env={"DS_BUILD_OPS": "0"},
    )
    workers = os.environ.get("WORKERS", str(os.cpu_count()))
    session.run(
        *("python", "-m", "pytest", "-q", "-n", workers, "--no-loadscope-reorder", f"--junitxml={report}"),
        # A test that hangs below Python is ended, too.
        *("--timeout-method=thread", *tests, *session.posargs),
        env={"TORCHINDUCTOR_COMPILE_THREADS": "1"},  # else some releases start compilers with every process
        success_codes=[0, 1],
    )
    line = str(session.run("python", "-m", "tests.matrix", str(report), silent=True)).strip()
    session.log(line)
    return line.endswith("| 0 |")  # the last column: what failed


def write_constraints(file: Path) -> str:
    """Write what of constraints.txt holds with every torch; the DeepSpeed that it names is returned."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    file.write_text("\n".join(line for line in lines if line.partition("==")[0] not in BOUND) + "\n")
    (release,) = [found[1] for line in lines if (found := re.fullmatch(r"deepspeed==(.+)", line))]
    return release
