"""The patches that we would send upstream apply to the release, and their own tests need them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from harness.system.places import REPOSITORY
from harness.variants import Variant, overlay_path

PATCHES = sorted((REPOSITORY / "patches" / "upstream").glob("*.patch"))
RELEASE = "0.19.8"


def patched(patch: Path, folder: Path) -> Path:
    """A copy of the released package with the patch applied, its tests included."""
    shutil.copytree(overlay_path(Variant.parse("fixed"), RELEASE), folder, copy_function=os.link)
    zero = folder / "deepspeed" / "runtime" / "zero"
    for file in zero.glob("*.py"):  # no hard links where something is written
        content = file.read_bytes()
        file.unlink()
        file.write_bytes(content)
    subprocess.run(["git", "apply", "--whitespace=nowarn", str(patch)], cwd=folder, check=True)
    return folder


def run_tests(folder: Path, package: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(package), "DS_ACCELERATOR": "cpu"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(folder)]
    return subprocess.run(
        [*command, str(folder / "tests")], env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.slow
@pytest.mark.parametrize("patch", PATCHES, ids=lambda patch: patch.name[:4])
def test_a_patch_applies_and_its_tests_pass_with_it_and_fail_without(patch: Path, tmp_path: Path) -> None:
    folder = patched(patch, tmp_path / "patched")
    with_patch = run_tests(folder, folder)
    assert with_patch.returncode == 0, with_patch.stdout
    assert "passed" in with_patch.stdout
    without = run_tests(folder, overlay_path(Variant.parse("fixed"), RELEASE))
    assert without.returncode == 1, without.stdout


def test_the_patches_apply_together(tmp_path: Path) -> None:
    folder = patched(PATCHES[0], tmp_path / "patched")
    for patch in PATCHES[1:]:
        subprocess.run(["git", "apply", "--whitespace=nowarn", str(patch)], cwd=folder, check=True)
    assert len(list((folder / "tests").rglob("test_*.py"))) == len(PATCHES)


def test_the_patches_are_there_and_say_where_they_come_from() -> None:
    assert [patch.name[:4] for patch in PATCHES] == ["0001", "0002", "0003", "0004"]
    for patch in PATCHES:
        text = patch.read_text()
        for line in ("Subject: [PATCH] zero", "Origin: vendor", "Forwarded: no", "Applied-Upstream: no"):
            assert line in text
