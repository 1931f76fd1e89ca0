"""The series of one release: its family of patches, and what each file that they touch is pinned to."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from harness.system.errors import HarnessError
from harness.variants.families import Family, base_patches, families, read_table, touched_files, version_key
from harness.variants.variant import Variant

TABLE = "releases.toml"
_RELEASE = re.compile(r"\d+\.\d+[\w.+-]*")
RELEASED, BASE = "released", "base"
"""States of a file: as released, and with nothing but what an old release needs on a present-day torch."""
UNPINNED = "unpinned"
STALE_FROM, STALE_BEFORE = "0.10.3", "0.13.2"
"""The releases whose secondary partitions outlive the optimizer step: #4288 took the line out, #4906 put it back."""


@dataclass(frozen=True, kw_only=True)
class Series:
    """How the variants of one release are made. File names are relative to the package folder."""

    release: str
    """As reports print it: `0.19.8`, or `0.19.9 unpinned`."""
    family: Family
    files: dict[str, dict[str, str]] = field(default_factory=dict)
    """Touched file → its state → sha256: `released`, and after each composition of patches, as in `copy=old
    order=none`. Empty where the series is not pinned."""

    @property
    def pinned(self) -> bool:
        return bool(self.files)

    @property
    def base(self) -> list[Path]:
        return base_patches(self.release)

    @property
    def before(self) -> dict[str, str]:
        """Touched file → sha256 as released."""
        return {name: states[RELEASED] for name, states in self.files.items()}

    def patches_of(self, variant: Variant) -> list[Path]:
        """The patch files that make `variant`, in the order of application."""
        return [*self.base, *self.family.patches_of(variant)]

    def makes(self, variant: Variant) -> bool:
        """Whether there is a patch for every axis value of `variant`; so in every pinned series."""
        try:
            self.family.patches_of(variant)
        except HarnessError:
            return False
        return True

    def states_of(self, variant: Variant) -> dict[str, str]:
        """Touched file → the state that `variant` leaves it in: the patches that touched it, in order."""
        states: dict[str, list[str]] = {}
        for patch in self.patches_of(variant):
            label = BASE if patch in self.base else axis_value(patch)
            for name in touched_files([patch]):
                labels = states.setdefault(name, [])
                if label not in labels:
                    labels.append(label)
        return {name: " ".join(labels) for name, labels in states.items()}

    def after(self, variant: Variant) -> dict[str, str]:
        """Touched file → sha256 once `variant` is made; only of a pinned series. Raises HarnessError for a gap."""
        try:
            return {name: self.files[name][state] for name, state in self.states_of(variant).items()}
        except KeyError as error:
            raise HarnessError(
                f"patches/{TABLE}: {self.release}, {variant.name}: {error} is not pinned; if a patch was added on "
                f"purpose, run `hpz patch adopt {self.release}`"
            ) from error


def axis_value(patch: Path, sign: str = "=") -> str:
    """`order-event/0.14.3.patch` → `order=event`; of a patch that old releases need, `base-gloo`."""
    if patch.parent.name == BASE:
        return f"{BASE}-{patch.stem}"
    return patch.parent.name.replace("-", sign, 1)


def installed_release() -> str | None:
    """The installed DeepSpeed's release, without importing it; None where there is none."""
    try:
        return version("deepspeed")
    except PackageNotFoundError:
        return None


def supported_releases() -> list[str]:
    """Every pinned release, oldest first. Raises HarnessError where the patches did not come along."""
    return sorted(read_table(TABLE), key=version_key)


def release_ranges(releases: Iterable[str] | None = None) -> str:
    """`0.10.0–0.10.3, 0.11.0–0.11.2, …`: one range for each minor. Default: all that are pinned."""
    minors: dict[tuple[int, ...], list[str]] = {}
    for release in supported_releases() if releases is None else releases:
        minors.setdefault(version_key(release)[:2], []).append(release)
    return ", ".join(group[0] if len(group) == 1 else f"{group[0]}–{group[-1]}" for group in minors.values())


def split_release(release: str) -> tuple[str, bool]:
    """The release's name and whether it is marked as unpinned."""
    name, _, mark = release.strip().partition(" ")
    if mark not in ("", UNPINNED) or not _RELEASE.fullmatch(name):
        raise HarnessError(f"{release!r} is not a release; write it as 0.19.8 or as '0.19.8 {UNPINNED}'")
    return name, mark == UNPINNED


@lru_cache
def load_series(release: str) -> Series:
    """The series of one pinned release. Raises HarnessError for any other."""
    table = read_table(TABLE)
    if release not in table:
        raise HarnessError(not_pinned(release))
    try:
        family = next(family for family in families() if family.name == table[release]["family"])
        return Series(release=release, family=family, files=table[release]["files"])
    except (KeyError, StopIteration) as error:
        raise HarnessError(
            f"patches/{TABLE}: {release} is incomplete ({error or 'no such family'}); "
            f"run `hpz patch adopt {release}`"
        ) from error


def not_pinned(release: str) -> str:
    """What to say of a release that is not in the table: whether it is too old, too new or unknown, and what to do."""
    known = supported_releases()
    if version_key(release) < version_key(known[0]):
        return f"DeepSpeed {release} has no hpZ, which came with {known[0]}; pinned are {release_ranges()}"
    where = (
        "newer than all that are pinned" if version_key(release) > version_key(known[-1]) else "not pinned"
    )
    return (
        f"DeepSpeed {release} is {where} ({known[0]} to {known[-1]}); with --{UNPINNED}, or as release "
        f"'{release} {UNPINNED}' in a study, it takes the patches that apply to it and says so wherever a number of it "
        f"is shown; `hpz patch adopt {release}` pins it"
    )


def precondition_note(release: str) -> str:
    """A sentence for wherever a variant of a release is shown that lacks what hpZ rests on; empty for others."""
    if not version_key(STALE_FROM) <= version_key(release) < version_key(STALE_BEFORE):
        return ""
    return (
        f"From {STALE_FROM} to before {STALE_BEFORE} secondary partitions of earlier steps are kept (#4851), so in "
        f"{release} every variant with hpZ trains on stale weights, whatever orders its copy."
    )


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
