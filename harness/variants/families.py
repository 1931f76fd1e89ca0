"""Families of patches: which patch makes which value of an axis, for a range of DeepSpeed releases."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from harness.system.errors import HarnessError
from harness.system.places import REPOSITORY
from harness.variants.variant import AXES, EVENT_AXES, Variant

PATCHES = REPOSITORY / "patches"
PACKAGE = "deepspeed"
_TOUCHED = re.compile(rf"^\+\+\+ b/{PACKAGE}/(\S+)$", re.MULTILINE)


@dataclass(frozen=True, kw_only=True)
class Family:
    """One table of `patches/families.toml`."""

    name: str
    """The first release that it fits."""
    own: dict[str, str]
    """What the releases do themselves: the value of each axis that needs no patch."""
    guard: str
    """The method by which an accelerator of these releases says that it needs no ordering."""
    patches: dict[str, str]
    """`axis=value` → patch file, relative to `patches/`."""

    @property
    def released(self) -> Variant:
        """The variant that the releases are by themselves, as `stock` or `fixed`."""
        return Variant(**self.own)  # type: ignore[arg-type]

    def patches_of(self, variant: Variant) -> list[Path]:
        """The patch files that make `variant`, in the order of application."""
        wanted = [(axis, getattr(variant, axis)) for axis in (AXES if variant.hpz else EVENT_AXES)]
        keys = [f"{axis}={value}" for axis, value in wanted if value != self.own[axis]]
        for key in keys:
            if key not in self.patches:
                raise HarnessError(f"variant {variant.name}: no patch for {key} fits this DeepSpeed")
        return [PATCHES / self.patches[key] for key in keys]


@lru_cache
def families() -> tuple[Family, ...]:
    """All families, oldest first. Raises HarnessError where the patches did not come along."""
    return tuple(
        Family(
            name=name,
            own=table["own"],
            guard=table["guard"],
            patches={key: value for key, value in table.items() if "=" in key},
        )
        for name, table in read_table("families.toml").items()
    )


def base_patches(release: str) -> list[Path]:
    """What every variant of an old release needs to run on a present-day torch; empty for newer ones."""
    return [
        PATCHES / patch["file"]
        for patch in read_table("base.toml")["patch"]
        if version_key(patch["first"]) <= version_key(release) < version_key(patch["end"])
    ]


def touched_files(patches: Iterable[Path]) -> list[str]:
    """The files that these patches change, relative to the package folder, sorted."""
    return sorted({name for patch in patches for name in _touched(patch)})


@lru_cache
def _touched(patch: Path) -> tuple[str, ...]:
    return tuple(_TOUCHED.findall(patch.read_text()))


@lru_cache
def read_table(name: str) -> dict[str, Any]:
    """A table of the patches' folder. Raises HarnessError where it is missing or not TOML."""
    path = PATCHES / name
    try:
        return tomllib.loads(path.read_text())
    except FileNotFoundError as error:
        raise HarnessError(
            f"{path} is missing; install hpZ Lab from its clone, with pip install -e"
        ) from error
    except tomllib.TOMLDecodeError as error:
        raise HarnessError(f"{path} is not TOML ({error}); take it anew from the clone") from error


def version_key(release: str) -> tuple[int, ...]:
    """`0.19.8` → (0, 19, 8); what follows the numbers (`+cu128`, `rc1`) is left out."""
    numbers = re.match(r"\d+(\.\d+)*", release)
    return tuple(int(n) for n in numbers.group().split(".")) if numbers else ()
