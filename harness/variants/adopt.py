"""Adopts a release: finds the family of patches that fits it, proves every variant, and pins what comes out."""

from __future__ import annotations

import fcntl
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.system.errors import HarnessError
from harness.system.whole_file import write_text_whole
from harness.variants.apply import apply_patches, hashes
from harness.variants.families import PATCHES, Family, base_patches, read_table, touched_files, version_key
from harness.variants.fit import by_nearness, misfits, texts
from harness.variants.series import RELEASED, TABLE, UNPINNED, Series, sha256
from harness.variants.sources import check_package, release_source
from harness.variants.syntax import syntax_findings
from harness.variants.variant import all_variants

HEADER = (
    "# Every DeepSpeed release that is pinned: the family of its patches, and the sha256 of each file that they\n"
    "# touch, as released and after each composition of patches that touch it. Written by `hpz patch adopt RELEASE`;\n"
    "# a test computes it again and compares.\n"
)


@dataclass(frozen=True, kw_only=True)
class Adoption:
    """What came of adopting a release."""

    release: str
    family: str
    before: str | None
    """The newest pinned release that is older."""
    changed: list[str]
    """Of the files that patches touch, those that are not the ones of that release."""
    news: bool
    """Whether the table was changed."""


def adopt(release: str, source: Path | None = None, *, check: bool = False) -> Adoption:
    """Pins `release` from its package folder (default: as `release_source`); with `check` nothing is written.

    Raises HarnessError.

    Two processes that adopt at once do so one after the other, and neither loses what the other wrote.
    """
    if not re.fullmatch(r"\d+\.\d+\.\d+", release):
        raise HarnessError(
            f"{release!r} is not a published release such as 0.19.8, and only those are pinned; "
            f"take a build of your own with --{UNPINNED}"
        )
    if source is not None:
        check_package(source)
    series = pinned_series(release, source or release_source(release))
    entry = {"family": series.family.name, "files": series.files}
    with _table_to_ourselves() as table:
        news = table.get(release) != entry
        if news and check:
            raise HarnessError(
                f"patches/{TABLE}: {release} is not as the patches make it; run `hpz patch adopt {release}`"
            )
        if news:
            table[release] = entry
            write_text_whole(PATCHES / TABLE, render(table))
    older = [name for name in table if version_key(name) < version_key(release)]
    before = max(older, key=version_key, default=None)
    changed = [
        name
        for name, states in series.files.items()
        if before and states[RELEASED] != table[before]["files"].get(name, {}).get(RELEASED)
    ]
    return Adoption(release=release, family=series.family.name, before=before, changed=changed, news=news)


def pinned_series(release: str, source: Path) -> Series:
    """The series of a release as computed from its sources, every variant of it proved. Raises HarnessError."""
    base = base_patches(release)
    tried: list[tuple[Family, dict[str, str]]] = []
    for family in by_nearness(release):
        wrong = misfits(family, source, base)
        if not wrong:
            return _computed(release, source, family)
        tried.append((family, wrong))
    family, wrong = min(tried, key=lambda pair: len(pair[1]))
    raise HarnessError(
        f"DeepSpeed {release}: no family of patches fits it; nearest is {family.name}, where "
        f"{'; '.join(f'{key}: {reason}' for key, reason in wrong.items())}; write the patches that differ, "
        "and a family for them in patches/families.toml"
    )


def _computed(release: str, source: Path, family: Family) -> Series:
    series = Series(release=release, family=family)
    pristine = texts(apply_patches(series.base, source), source)
    every = [*series.base, *(PATCHES / patch for patch in family.patches.values())]
    files: dict[str, dict[str, str]] = {
        name: {RELEASED: sha256(source / name)} for name in touched_files(every)
    }
    for variant in all_variants():
        patched = apply_patches(series.patches_of(variant), source)
        if findings := syntax_findings(variant, texts(patched, source), pristine, family):
            raise HarnessError(f"DeepSpeed {release}, {variant.name}: {findings[0]}; a person must look")
        digests = hashes(patched)
        for name, state in series.states_of(variant).items():
            files[name][state] = digests[name]
    return Series(release=release, family=family, files=files)


def render(table: dict[str, Any]) -> str:
    """The table as text, releases and files in order."""
    lines = [HEADER]
    for release in sorted(table, key=version_key):
        lines += [f'["{release}"]', f'family = "{table[release]["family"]}"']
        for name, states in sorted(table[release]["files"].items()):
            lines += [
                f'["{release}".files."{name}"]',
                *(f'"{state}" = "{sha}"' for state, sha in states.items()),
            ]
        lines.append("")
    return "\n".join(lines)


@contextmanager
def _table_to_ourselves() -> Iterator[dict[str, Any]]:
    """The table, read while nobody else may write it."""
    with (PATCHES / "families.toml").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        read_table.cache_clear()
        yield dict(read_table(TABLE)) if (PATCHES / TABLE).is_file() else {}
    read_table.cache_clear()
