"""Every benchmark can be started as a file and as a module."""

from __future__ import annotations

import subprocess
import sys

import pytest

from harness.system.places import REPOSITORY

NAMES = sorted(file.stem for file in (REPOSITORY / "benchmarks").glob("*.py") if file.stem != "__init__")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("way", ["file", "module"])
def test_a_benchmark_starts_both_ways(name: str, way: str) -> None:
    words = [f"benchmarks/{name}.py"] if way == "file" else ["-m", f"benchmarks.{name}"]
    done = subprocess.run(
        [sys.executable, *words, "--help"], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "--help" in done.stdout
