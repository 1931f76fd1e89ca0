"""Applies a variant's patches to copies of the files they touch, and pins what comes out."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from harness.system.errors import HarnessError
from harness.variants.families import PACKAGE, touched_files
from harness.variants.series import TABLE, Series
from harness.variants.variant import Variant


def patched_files(series: Series, variant: Variant, source: Path) -> dict[str, bytes]:
    """Touched file → content with the variant's patches applied. Raises HarnessError where one does not apply."""
    return apply_patches(series.patches_of(variant), source)


def apply_patches(patches: list[Path], source: Path) -> dict[str, bytes]:
    """Touched file → content once `patches` are applied, in order, to a copy of the files of `source`."""
    names = touched_files(patches)
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            target = Path(folder) / PACKAGE / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if not (source / name).is_file():
                raise HarnessError(f"{source} has no {name}, which the patches of hpZ touch")
            shutil.copyfile(source / name, target)
        for patch in patches:
            _git_apply(patch, Path(folder))
        return {name: (Path(folder) / PACKAGE / name).read_bytes() for name in names}


def _git_apply(patch: Path, folder: Path) -> None:
    # Inside somebody's work tree `git apply` takes paths from that tree's root and skips, silently, what is not
    # there: keep git from looking above the folder.
    hidden = {"GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"}
    environment = {key: value for key, value in os.environ.items() if key not in hidden}
    environment["GIT_CEILING_DIRECTORIES"] = str(folder.resolve().parent)
    try:
        command = ["git", "apply", "--whitespace=nowarn", str(patch)]
        done = subprocess.run(
            command, cwd=folder.resolve(), env=environment, capture_output=True, text=True, check=False
        )
    except FileNotFoundError as error:
        raise HarnessError("git is not installed, and patches are applied with it; install git") from error
    if done.returncode:
        reason = " ".join(done.stderr.split())
        raise HarnessError(f"{patch.parent.name}/{patch.name} does not apply: {reason}")


def hashes(files: dict[str, bytes]) -> dict[str, str]:
    """File → sha256 of its content."""
    return {name: hashlib.sha256(content).hexdigest() for name, content in sorted(files.items())}


def check_hashes(series: Series, variant: Variant, files: dict[str, bytes]) -> None:
    """Raises HarnessError unless each patched file is what the table of releases pins for the variant."""
    if not series.pinned:
        return
    pinned, found = series.after(variant), hashes(files)
    for name in sorted(pinned.keys() | found.keys()):
        if pinned.get(name) != found.get(name):
            raise HarnessError(
                f"patches/{TABLE}: {series.release}, {variant.name}: {name} comes out otherwise than pinned; "
                f"if its patch was changed on purpose, run `hpz patch adopt {series.release}`"
            )
