"""Fetches the source archive of a DeepSpeed release through pip, without running anything that is in it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path, PurePosixPath

from harness.system.errors import HarnessError
from harness.variants.families import PACKAGE

MANIFEST = "files.json"
"""Beside an unpacked package: each of its files with its size, written last."""

# pip asks a source archive for its metadata before it keeps it, and DeepSpeed's set-up script needs torch, a compiler's
# version, older packages. This stands in for the build backend: pip learns what it asked for, and nothing is run.
_BACKEND = """
import os, pathlib

class Backend:
    def get_requires_for_build_wheel(self, config_settings=None):
        return []

    def prepare_metadata_for_build_wheel(self, folder, config_settings=None):
        name, version = os.environ["HPZ_ARCHIVE"].split("==")
        info = pathlib.Path(folder, f"{name}-{version}.dist-info")
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\\nName: {name}\\nVersion: {version}\\n")
        return info.name

__legacy__ = Backend()
"""


def fetch(release: str, target: Path) -> None:
    """Downloads the release and leaves its package at `target`, complete or not at all.

    Several processes may fetch the same release; the first counts. Raises HarnessError.
    """
    target.parent.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent.parent, prefix=".fetching-") as folder:
        unpacked = Path(folder) / "release"
        way_out = f", or put the release's package folder at {target}"
        _unpack(download(release, Path(folder), way_out), unpacked)
        (unpacked / MANIFEST).write_text(json.dumps(_sizes(unpacked / PACKAGE), indent=0) + "\n")
        try:
            unpacked.rename(target.parent)
        except OSError:
            if not target.is_dir():  # else another process was quicker, with the same content
                raise


def check_complete(release: str, package: Path) -> None:
    """Raises HarnessError where a release in the cache lacks a file or holds a part of one."""
    manifest = package.parent / MANIFEST
    if not manifest.is_file():  # put there by hand; what is patched is checked by its hash
        return
    try:
        expected: dict[str, int] = json.loads(manifest.read_text())
    except ValueError:
        expected = {MANIFEST: -1}
    found = _sizes(package)
    wrong = sorted(name for name, size in expected.items() if found.get(name) != size)
    if wrong:
        raise HarnessError(
            f"{package}: DeepSpeed {release} is only partly there ({len(wrong)} of {len(expected)} files are "
            f"missing or cut off, {wrong[0]} the first); delete {package.parent} and run again, it is then fetched anew"
        )


def _sizes(package: Path) -> dict[str, int]:
    files = (path for path in package.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {path.relative_to(package).as_posix(): path.stat().st_size for path in sorted(files)}


def download(release: str, folder: Path, way_out: str = "") -> Path:
    """The release's source archive in a folder, as pip finds it. Raises HarnessError."""
    with tempfile.TemporaryDirectory() as backend:
        return _download(release, folder, Path(backend) / "setuptools", way_out)


def _download(release: str, folder: Path, backend: Path, way_out: str) -> Path:
    backend.mkdir()
    (backend / "__init__.py").touch()
    (backend / "build_meta.py").write_text(_BACKEND)
    wanted = f"{PACKAGE}=={release}"
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:"]
    command += ["--no-build-isolation", "--use-pep517", "--dest", str(folder), wanted]
    environment = {**os.environ, "PYTHONPATH": str(backend.parent), "HPZ_ARCHIVE": wanted}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    archives = list(folder.glob(f"{PACKAGE}-{release}.tar.gz"))
    if done.returncode or not archives:
        reason = next(
            (line for line in done.stderr.splitlines()[::-1] if line.startswith("ERROR")), "pip failed"
        )
        raise HarnessError(
            f"DeepSpeed {release} cannot be fetched ({reason.removeprefix('ERROR: ')}); "
            f"connect to a package index{way_out}"
        )
    return archives[0]


def _unpack(archive: Path, target: Path) -> None:
    """Unpacks only the regular files of the `deepspeed` package from a source archive."""
    try:
        with tarfile.open(archive) as tar:
            for member in tar:
                parts = PurePosixPath(member.name).parts
                if not member.isfile() or len(parts) < 3 or parts[1] != PACKAGE or ".." in parts:
                    continue
                content = tar.extractfile(member)
                assert content is not None
                path = target.joinpath(*parts[1:])
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content.read())
    except (tarfile.TarError, EOFError, OSError) as error:
        raise HarnessError(f"{archive.name} cannot be unpacked ({error}); run again") from error
    if not target.is_dir():
        raise HarnessError(f"{archive.name} holds no package {PACKAGE}; name another release")
