"""The variants of a study in words and lines, for the page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from harness.variants import Variant, describe, installed_release, release_notes
from harness.variants.describe import what


@dataclass(frozen=True)
class Explained:
    """A variant: what it is, and the lines that make it."""

    variant: str
    what: str
    diff: list[tuple[str, str]]  # (kind of line, line); kind: add, del, hunk, file, same
    note: str


def explained(summary: Mapping[str, Any]) -> list[Explained]:
    """Every variant of the study, with its diff where the DeepSpeed that it was built from is at hand."""
    wanted = dict.fromkeys((pair["variant"], pair["release"]) for pair in summary["pairs"])
    return [_explained(variant, release) for variant, release in wanted]


def notes_of(summary: Mapping[str, Any]) -> list[str]:
    """What a reader must know of the releases: each that is unpinned, or lacks what hpZ rests on."""
    return list(release_notes((pair["release"], pair["variant"]) for pair in summary["pairs"]))


def patches_of(summary: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Variant, patch file and sha256, as the runs recorded them, each once."""
    rows = ((pair["variant"], *item) for pair in summary["pairs"] for item in pair["patch_sha256"].items())
    return list(dict.fromkeys(rows))


def _explained(name: str, release: str) -> Explained:
    variant = Variant.parse(name)
    if installed_release() != release:
        where = f"The lines are shown where DeepSpeed {release} is installed: hpz patch show {name}"
        note = " ".join([*release_notes([(release, name)]), where])
        return Explained(name, what(variant), [], note)
    found = describe(variant, release)
    note = "" if found.diff else f"DeepSpeed {release} as released; no line is changed."
    note = " ".join(filter(None, (found.note, note)))
    return Explained(name, found.what, [(_kind(line), line) for line in found.diff.splitlines()], note)


def _kind(line: str) -> str:
    if line.startswith(("+++", "---")):
        return "file"
    return {"@": "hunk", "+": "add", "-": "del"}.get(line[:1], "same")
