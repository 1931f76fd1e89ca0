"""Where an unpatched DeepSpeed package comes from, and whether it is what was released."""

from __future__ import annotations

import json
import re
from importlib.metadata import distribution
from pathlib import Path
from urllib.parse import unquote, urlparse

from harness.system.errors import HarnessError
from harness.system.places import cache_folder
from harness.variants.archive import check_complete, fetch
from harness.variants.families import PACKAGE
from harness.variants.fit import differences, fit
from harness.variants.series import (
    UNPINNED,
    Series,
    axis_value,
    installed_release,
    load_series,
    not_pinned,
    sha256,
    split_release,
    supported_releases,
)
from harness.variants.variant import Variant


def resolve(release: str | None, source: Path | None = None) -> tuple[Series, Path]:
    """The series and the unpatched package folder for `release` (default: the installed one).

    A release marked `unpinned` takes the family of patches that fits it. Raises HarnessError where the release is not
    pinned and not so marked, cannot be had, or is not what was released.
    """
    wanted = release or installed_release()
    if wanted is None:
        raise HarnessError(
            f"DeepSpeed is not installed here; install deepspeed=={supported_releases()[-1]} or name a release"
        )
    name, unpinned = split_release(wanted)
    if source is not None:
        check_package(source)
    if unpinned:
        folder = source or release_source(name)
        return fit(name, folder), folder
    if public(name) not in supported_releases():
        raise HarnessError(not_pinned(name))
    folder = source or release_source(name)
    series = load_series(public(name))
    check_pristine(series, folder)
    return series, folder


def patch_hashes(variant: Variant, release: str) -> dict[str, str]:
    """Patch → sha256 of its file; empty where the release itself is the variant. Raises HarnessError.

    Of a pinned release without its sources; one marked as unpinned is fetched where it is not installed.
    """
    return hashes_of(series_of(release), variant)


def series_of(release: str) -> Series:
    """As `patch_hashes`: the table's where the release is pinned, else as found by fitting. Raises HarnessError."""
    name, unpinned = split_release(release)
    return resolve(release)[0] if unpinned else load_series(public(name))


def released_variant(release: str) -> Variant:
    """The variant that a pinned release is by itself, as `stock` or `fixed`. Raises HarnessError."""
    return load_series(public(split_release(release)[0])).family.released


def hashes_of(series: Series, variant: Variant) -> dict[str, str]:
    """As `patch_hashes`, of a series: `order-event.patch` → sha256."""
    return {f"{axis_value(path, '-')}.patch": sha256(path) for path in series.patches_of(variant)}


def source_release(package: Path) -> str | None:
    """The release that a package folder says it is, as it was built or as a checkout; None where it does not say."""
    for file in (package / "git_version_info_installed.py", package.parent / "version.txt"):
        if file.is_file() and (found := re.search(r"\d+\.\d+\.\d+", file.read_text(errors="replace"))):
            return found.group()
    return None


def public(release: str) -> str:
    """A vendor's or a checkout's build by the release that it claims to be: `0.16.4+cu128` → `0.16.4`."""
    return release.partition("+")[0]


def release_source(release: str) -> Path:
    """The unpatched `deepspeed` package folder of `release`: as installed, as cached, or fetched now."""
    if release == installed_release():
        return installed_package()
    cached = cache_folder() / "releases" / release / PACKAGE
    if not cached.is_dir():
        fetch(release, cached)
    check_complete(release, cached)
    return cached


def installed_package() -> Path:
    """Where Python finds the installed DeepSpeed; looked up without importing it. Raises HarnessError."""
    beside = Path(str(distribution(PACKAGE).locate_file(PACKAGE)))
    if (beside / "runtime").is_dir():
        return beside
    told = json.loads(distribution(PACKAGE).read_text("direct_url.json") or "{}")
    root = Path(unquote(urlparse(told.get("url", "")).path))  # installed in place: the sources are there
    if (root / PACKAGE / "runtime").is_dir():
        return root / PACKAGE
    raise HarnessError(
        f"{beside}: DeepSpeed {installed_release()} is registered as installed, but its package is not there; "
        "reinstall it"
    )


def checkout_of(package: Path) -> Path | None:
    """The git work tree that a package folder lies in, where it is DeepSpeed's own; None for a release."""
    root = package.resolve().parent
    return root if (root / ".git").exists() and (root / "version.txt").is_file() else None


def check_package(folder: Path) -> None:
    """Raises HarnessError unless `folder` looks like the package of a DeepSpeed."""
    if (folder / "runtime" / "zero").is_dir():
        return
    inside = folder / PACKAGE
    if (inside / "runtime" / "zero").is_dir():
        raise HarnessError(f"{folder} holds a DeepSpeed, but is not its package folder; give {inside}")
    raise HarnessError(f"{folder} is not a DeepSpeed package folder (no runtime/zero in it)")


def check_pristine(series: Series, folder: Path) -> None:
    """Raises HarnessError unless every file that a patch touches is as released."""
    changed = differences(series, folder)
    if not changed:
        return
    also = f"; {len(changed)} of its {len(series.before)} patched files differ" if len(changed) > 1 else ""
    of = f"{folder / changed[0]} is not the file of DeepSpeed {series.release}"
    if root := checkout_of(folder):
        sentence = (
            f"{root} is a git checkout, and its {changed[0]} is not that of release {series.release}{also}"
        )
        way_out = f"install {PACKAGE}=={series.release}"
    elif other := releases_like(folder):
        sentence, way_out = f"{of} but of {other}", "name that release"
    else:
        sentence = f"{of}{also}"
        way_out = f"reinstall it (pip install --force-reinstall --no-deps {PACKAGE}=={series.release}) and run again"
    raise HarnessError(f"{sentence}; {way_out}, or take the patches that apply with --{UNPINNED}")


def releases_like(folder: Path) -> str:
    """The pinned releases whose patched files are exactly those of `folder`; empty where there is none."""
    found = [release for release in supported_releases() if not differences(load_series(release), folder)]
    return " or ".join(found[:1] + found[1:][-1:])
