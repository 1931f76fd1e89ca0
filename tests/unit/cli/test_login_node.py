"""A login node has neither torch nor DeepSpeed: what is done there works without them."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from harness.system.places import REPOSITORY

ABSENT = ("torch", "deepspeed", "transformers", "tokenizers", "datasets", "accelerate", "wandb")


@pytest.fixture
def packages(tmp_path: Path) -> Path:
    """This environment's packages but for those that only training needs."""
    folder = tmp_path / "site-packages"
    folder.mkdir()
    for package in Path(sysconfig.get_path("purelib")).iterdir():
        if package.name.split("-")[0].split(".")[0] not in ABSENT:
            (folder / package.name).symlink_to(package)
    return folder


def python(packages: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-S", *words],  # -S: no site-packages but those on the path
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(REPOSITORY), str(packages)])},
        cwd=packages.parent,
        capture_output=True,
        text=True,
        check=False,
    )


def test_there_really_is_no_torch(packages: Path) -> None:
    for name in ABSENT:
        assert f"No module named '{name}'" in python(packages, "-c", f"import {name}").stderr


@pytest.mark.parametrize(
    "words",
    [
        ("plan", "experiments/laptop.yaml"),
        ("submit", "experiments/paper.yaml", "--cluster", "slurm/clusters/generic-8gpu.yaml", "--dry-run"),
        ("status", "experiments/slow-link.yaml"),
        ("doctor",),
        ("audit", "experiments/models/llama2-70b.yaml", "--nodes", "1-4"),
        ("audit", "mixtral-8x7b", "--nodes", "1-4"),
        ("model", "show", "qwen3-30b-a3b"),
        ("plan", "experiments/families.yaml"),
        ("patch", "list", "--release", "0.19.8"),
        ("data", "--help"),
        ("race", "--help"),
        ("simulate", "--help"),
    ],
    ids=lambda words: str(words[0]),
)
def test_a_verb_of_the_login_node_works(packages: Path, words: tuple[str, ...]) -> None:
    files = [
        str(REPOSITORY / word) if word.startswith(("experiments/", "slurm/")) else word for word in words
    ]
    done = python(packages, "-m", "harness.cli", *files)
    assert done.returncode == 0, done.stderr


def test_the_modules_of_reports_are_imported_without_torch(packages: Path) -> None:
    done = python(packages, "-c", "import analysis.page.report, analysis.reference.keep")
    assert done.returncode == 0, done.stderr
