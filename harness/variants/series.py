"""The patch series: which DeepSpeed releases are supported, and which patches make a variant of each."""

from __future__ import annotations

import hashlib
import re
import tomllib
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from harness.system.errors import HarnessError
from harness.system.places import REPOSITORY
from harness.variants.variant import Variant

PATCHES = REPOSITORY / "patches"
AXES = ("copy", "order", "step")


@dataclass(frozen=True, kw_only=True)
class Series:
    """`patches/deepspeed-<release>/series.toml`, read. Paths of files are relative to the package folder."""

    release: str
    folder: Path
    own: dict[str, str]
    """What the release itself does: the value of each axis that needs no patch."""
    patches: dict[str, str]
    """`axis=value` → patch file name."""
    base: tuple[str, ...]
    """Patches that every variant of this release needs, so that it runs at all on a present-day torch."""
    stubs: str | None
    """Folder of stand-in packages that the release imports and nobody installs any more, or None."""
    before: dict[str, str]
    """Touched file → sha256 as released."""
    after: dict[str, dict[str, str]]
    """Variant name → touched file → sha256 once patched."""

    def patches_of(self, variant: Variant) -> list[Path]:
        """The patch files that make `variant`, in the order of application."""
        axes = AXES if variant.hpz else ("step",)
        wanted = [(axis, getattr(variant, axis)) for axis in axes]
        names = [self.patches[f"{axis}={value}"] for axis, value in wanted if value != self.own[axis]]
        return [self.folder / name for name in (*self.base, *names)]


def installed_release() -> str | None:
    """The installed DeepSpeed's release, without importing it; None where there is none."""
    try:
        return version("deepspeed")
    except PackageNotFoundError:
        return None


def supported_releases() -> list[str]:
    """Every release with a patch series, oldest first. Raises HarnessError where the patches did not come along."""
    found = [path.parent.name.removeprefix("deepspeed-") for path in PATCHES.glob("deepspeed-*/series.toml")]
    if not found:
        raise HarnessError(
            f"{PATCHES}: no patches there; install hpZ Lab from its clone, with pip install -e"
        )
    return sorted(found, key=version_key)


def version_key(release: str) -> tuple[int, ...]:
    """`0.19.8` → (0, 19, 8); what follows the numbers (`+cu128`, `rc1`) is left out."""
    numbers = re.match(r"\d+(\.\d+)*", release)
    return tuple(int(n) for n in numbers.group().split(".")) if numbers else ()


@lru_cache
def load_series(release: str) -> Series:
    """The series of one release. Raises HarnessError for an unsupported one."""
    folder = PATCHES / f"deepspeed-{release}"
    if not (folder / "series.toml").is_file():
        raise HarnessError(
            f"DeepSpeed {release} is not supported; supported: {', '.join(supported_releases())}"
        )
    raw: dict[str, Any] = tomllib.loads((folder / "series.toml").read_text())
    return Series(
        release=raw["release"],
        folder=folder,
        own=raw["own"],
        patches=raw["patches"],
        base=tuple(raw.get("base", ())),
        stubs=raw.get("stubs"),
        before=raw.get("before", {}),
        after=raw.get("after", {}),
    )


def patch_hashes(variant: Variant, release: str) -> dict[str, str]:
    """Patch file name → sha256 of the file; empty where the release itself is the variant. HarnessError."""
    return {path.name: sha256(path) for path in load_series(release).patches_of(variant)}


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
