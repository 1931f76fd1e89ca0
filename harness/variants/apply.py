"""Applies a variant's patches to copies of the files they touch, and pins what comes out."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path

from harness.system.errors import HarnessError
from harness.variants.series import Series, load_series, sha256
from harness.variants.sources import PACKAGE, release_source
from harness.variants.variant import Variant, all_variants

_MARK = "# Below: "
_TOUCHED = re.compile(rf"^\+\+\+ b/{PACKAGE}/(\S+)$", re.MULTILINE)


def touched_files(patches: Iterable[Path]) -> list[str]:
    """The files that these patches change, relative to the package folder, sorted."""
    return sorted({name for patch in patches for name in _TOUCHED.findall(patch.read_text())})


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


def check_hashes(series: Series, variant: Variant, files: dict[str, bytes]) -> None:
    """Raises HarnessError unless each patched file is what `series.toml` pins for the variant."""
    pinned = series.after.get(variant.name, {})
    found = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    for name in sorted(pinned.keys() | found.keys()):
        if pinned.get(name) != found.get(name):
            raise HarnessError(
                f"{series.folder.name}/series.toml: after.{variant.name}: {name} comes out otherwise than pinned; "
                f"if its patch was changed on purpose, run `hpz patch rehash {series.release}`"
            )


def rehash(release: str, source: Path | None = None) -> str:
    """The text of `series.toml` with the hashes of every composition computed anew; writes nothing."""
    series = load_series(release)
    folder = source or release_source(release)
    every = [series.folder / name for name in (*series.base, *series.patches.values())]
    before = {name: sha256(folder / name) for name in touched_files(every)}
    text = (series.folder / "series.toml").read_text()
    head, mark, tail = text.partition(_MARK)
    comment = [line for line in tail.splitlines() if line.startswith("# ")]
    lines = [head + mark + tail.splitlines()[0], *comment, "", "[before]", *_table(before)]
    for variant in all_variants():
        files = patched_files(series, variant, folder)
        after = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
        lines += ["", f'[after."{variant.name}"]', *_table(after)]
    return "\n".join(lines) + "\n"


def _table(hashes: dict[str, str]) -> list[str]:
    return [f'"{name}" = "{digest}"' for name, digest in sorted(hashes.items())]
