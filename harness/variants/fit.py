"""Finds the family of patches that fits a package: its patches apply, and the syntax tree says that they did right."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from harness.system.errors import HarnessError
from harness.variants.apply import apply_patches
from harness.variants.families import Family, base_patches, families, version_key
from harness.variants.series import UNPINNED, Series, load_series, sha256, supported_releases
from harness.variants.syntax import FILES, syntax_findings


def fit(release: str, source: Path) -> Series:
    """The unpinned series of a package: the family most of whose patches fit, without those that do not.

    Raises HarnessError where none fits even the package as it is.
    """
    base = base_patches(release)
    found = [(family, misfits(family, source, base)) for family in by_nearness(release)]
    # A family that does not even know the package as it is comes last; of several alike the first is the nearest.
    family, wrong = min(found, key=lambda pair: ("own" in pair[1], len(pair[1])))
    if "own" in wrong:
        raise HarnessError(
            f"DeepSpeed {release}: no family of patches fits it ({wrong['own']}); its hpZ is built otherwise than in "
            "any known release, so a person must look"
        )
    patches = {key: patch for key, patch in family.patches.items() if key not in wrong}
    return Series(release=f"{release} {UNPINNED}", family=replace(family, patches=patches))


def by_nearness(release: str) -> list[Family]:
    """Families, the one whose range the release falls in first, then older and newer ones, each nearest first."""
    ahead = [family for family in families() if version_key(family.name) > version_key(release)]
    behind = [family for family in families() if version_key(family.name) <= version_key(release)]
    return behind[::-1] + ahead


def misfits(family: Family, source: Path, base: list[Path]) -> dict[str, str]:
    """Axis value → why its patch does not make it of this package; under `own`, what the package does itself."""
    pristine = texts(apply_patches(base, source), source)
    own = family.released
    wrong: dict[str, str] = {}
    if findings := syntax_findings(own, pristine, pristine, family):
        wrong["own"] = findings[0]
    for key, patch in family.patches.items():
        axis, value = key.split("=")
        wanted = own.at(axis, value)
        try:
            patched = texts(apply_patches([*base, *family.patches_of(wanted)], source), source)
        except HarnessError as error:
            wrong[key] = str(error)
            continue
        if findings := syntax_findings(wanted, patched, pristine, family):
            wrong[key] = f"{patch}: {findings[0]}"
    return wrong


def differs_from_nearest(release: str, source: Path) -> str:
    """In words, in which of the patched files a package differs from the pinned release nearest to it."""
    known = sorted(supported_releases(), key=lambda name: _distance(name, release))
    changed = differences(load_series(known[0]), source)
    return f"from {known[0]} it differs in {', '.join(changed) or 'none of the patched files'}"


def differences(series: Series, folder: Path) -> list[str]:
    """The files that a patch touches and that are not as released."""
    return [
        name
        for name, digest in sorted(series.before.items())
        if not (folder / name).is_file() or sha256(folder / name) != digest
    ]


def _distance(one: str, other: str) -> tuple[int, ...]:
    pairs = zip(version_key(one), version_key(other), strict=False)
    return tuple(abs(a - b) for a, b in pairs)


def texts(changed: Mapping[str, bytes], source: Path) -> dict[str, str]:
    """The text of each file under test: as changed, else as in `source`. Raises HarnessError where one is missing."""
    found: dict[str, str] = {}
    for name in FILES:
        if name not in changed and not (source / name).is_file():
            raise HarnessError(f"{source} has no {name}, which the patches of hpZ touch")
        found[name] = (changed[name] if name in changed else (source / name).read_bytes()).decode()
    return found
