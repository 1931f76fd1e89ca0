"""Where an unpatched DeepSpeed package comes from: this environment, or the release's archive, fetched once."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import tempfile
from importlib.metadata import distribution
from pathlib import Path, PurePosixPath

from harness.system.errors import HarnessError
from harness.variants.series import (
    Series,
    installed_release,
    load_series,
    sha256,
    supported_releases,
    version_key,
)

PACKAGE = "deepspeed"


def cache_folder() -> Path:
    """`$HPZ_CACHE`, else `$XDG_CACHE_HOME/hpz-lab`, else `~/.cache/hpz-lab`; not created here."""
    if own := os.environ.get("HPZ_CACHE"):
        return Path(own).absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").absolute() / "hpz-lab"


def resolve(release: str | None, source: Path | None = None) -> tuple[Series, Path]:
    """The series and the unpatched package folder for `release` (default: the installed one).

    Raises HarnessError where the release is unsupported, cannot be had, or is not what was released.
    """
    wanted = release or installed_release()
    if wanted is None:
        raise HarnessError(
            f"DeepSpeed is not installed here; install deepspeed=={supported_releases()[-1]} or name a release"
        )
    if wanted not in supported_releases():
        raise HarnessError(_unsupported(wanted, source))
    series = load_series(wanted)
    folder = source or release_source(wanted)
    check_pristine(series, folder)
    return series, folder


def release_source(release: str) -> Path:
    """The unpatched `deepspeed` package folder of `release`: as installed, as cached, or fetched now."""
    if release == installed_release():
        return Path(str(distribution(PACKAGE).locate_file(PACKAGE)))
    cached = cache_folder() / "releases" / release / PACKAGE
    if not cached.is_dir():
        _fetch(release, cached)
    return cached


def check_pristine(series: Series, folder: Path) -> None:
    """Raises HarnessError unless every file that a patch touches is as released."""
    for name in _differences(series, folder):
        raise HarnessError(
            f"{folder / name} is not the file of DeepSpeed {series.release}; "
            f"reinstall it (pip install --force-reinstall --no-deps deepspeed=={series.release}) and run again"
        )


def _differences(series: Series, folder: Path) -> list[str]:
    return [
        name
        for name, digest in sorted(series.before.items())
        if not (folder / name).is_file() or sha256(folder / name) != digest
    ]


def _unsupported(release: str, source: Path | None) -> str:
    """What to say about a release without a series: which are supported, and how it differs from the nearest."""
    supported = supported_releases()
    sentence = f"DeepSpeed {release} is not supported (supported: {', '.join(supported)})"
    if source is None and release == installed_release():
        source = release_source(release)
    if source is None:
        return f"{sentence}; install one of them"
    nearest = min(supported, key=lambda other: _distance(release, other))
    changed = _differences(load_series(nearest), source)
    return f"{sentence}; from the nearest, {nearest}, it differs in {', '.join(changed) or 'none of the patched files'}"


def _distance(one: str, other: str) -> tuple[int, ...]:
    pairs = zip(version_key(one), version_key(other), strict=False)
    return tuple(abs(a - b) for a, b in pairs)


def _fetch(release: str, cached: Path) -> None:
    """Downloads the release's source archive with pip and unpacks the package into the cache, atomically."""
    cached.parent.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cached.parent.parent, prefix=".fetching-") as folder:
        _unpack(_download(release, Path(folder), cached), Path(folder) / "release")
        try:
            (Path(folder) / "release").rename(cached.parent)
        except OSError:
            if not cached.is_dir():  # else another process was quicker, with the same content
                raise


def _download(release: str, folder: Path, cached: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:"]
    done = subprocess.run(
        [*command, "--dest", str(folder), f"{PACKAGE}=={release}"],
        capture_output=True,
        text=True,
        check=False,
    )
    archives = list(folder.glob("*.tar.gz"))
    if done.returncode or not archives:
        reason = next((line for line in done.stderr.splitlines() if line.startswith("ERROR")), "pip failed")
        raise HarnessError(
            f"DeepSpeed {release} cannot be fetched ({reason}); "
            f"connect to a package index, or put the release's package folder at {cached}"
        )
    return archives[0]


def _unpack(archive: Path, target: Path) -> None:
    """Unpacks only the regular files of the `deepspeed` package from a source archive."""
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
