"""Says in words what a variant changes, and shows the lines."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from harness.variants.apply import apply_patches, patched_files
from harness.variants.series import precondition_note, split_release
from harness.variants.sources import hashes_of, resolve
from harness.variants.variant import AXES, EVENT_AXES, Variant

WHAT = {
    "zero3": "ZeRO-3 without hpZ: no secondary partition, so nothing of hpZ can go wrong. The baseline.",
    "stock": "The old copy and nothing that orders it: both faults at once, what the paper calls stock.",
    "unordered": "The race alone: the copy is right, but the all-gather may read before it is finished.",
    "sync-only": "The missing copy alone: the host waits for the copy, which leaves elements unwritten.",
    "fixed": "DeepSpeed since 0.13.5: the right copy, and the host waits for its stream. The paper's fix.",
    "device-sync": "The right copy, and the host waits for the whole device: the fix as its text describes it.",
    "event": "The right copy, ordered on the device by an event: no host wait. What this project proposes.",
    "event+step": "As event; besides, the all-gather stream waits for the optimizer's write of the partitions.",
    "event+step+load": "As event+step; besides, the all-gather stream waits for what was written between passes.",
    "zero3+step": "ZeRO-3 without hpZ, its all-gather stream ordered after the optimizer's write.",
}
_AXES = {
    ("copy", "old"): "the copy of before 0.13.5, which leaves elements unwritten on sizes that do not divide",
    ("copy", "new"): "the copy of since 0.13.5, which writes every valid element",
    ("order", "none"): "nothing orders the all-gather after the copy",
    ("order", "stream-sync"): "the host waits for the copying stream",
    ("order", "device-sync"): "the host waits for the whole device",
    ("order", "event"): "the all-gather stream waits for an event recorded after the copy",
    ("step", "event"): "the all-gather stream waits for the optimizer's write",
    (
        "load",
        "event",
    ): "at the start of a forward pass the all-gather stream waits for what was written to the weights before",
}


@dataclass(frozen=True, kw_only=True)
class Description:
    """A variant of one release, explained."""

    variant: str
    release: str
    what: str
    """One or two sentences for a reader."""
    note: str
    """What a reader must know of this release; mostly empty."""
    patches: dict[str, str]
    """Patch file name → sha256."""
    diff: str
    """Unified diff against the release (and what the release needs to run at all); empty where nothing changes."""


def describe(variant: Variant, release: str | None = None, source: Path | None = None) -> Description:
    """Explains `variant` of `release` (default: the installed one). Raises HarnessError as `overlay_path` does."""
    series, folder = resolve(release, source)
    return Description(
        variant=variant.name,
        release=series.release,
        what=what(variant),
        note=" ".join(release_notes([(series.release, variant.name)])),
        patches=hashes_of(series, variant),
        diff=_diff(apply_patches(series.base, folder), patched_files(series, variant, folder), folder),
    )


def release_notes(made: Iterable[tuple[str, str]]) -> Iterator[str]:
    """What a reader of numbers must know of their (release, variant)s: what is unpinned or lacks a precondition."""
    with_hpz: dict[str, bool] = {}
    for release, variant in made:
        with_hpz[release] = with_hpz.get(release, False) or Variant.parse(variant).hpz
    for release, hpz in with_hpz.items():
        if split_release(release)[1]:
            yield f"DeepSpeed {release}: its patches apply and the syntax tree holds, but no hash was pinned."
        if hpz and (note := precondition_note(release)):
            yield note


def what(variant: Variant) -> str:
    """A sentence or two on the variant; composed of its axes where it has no name of its own."""
    if variant.name in WHAT:
        return WHAT[variant.name]
    if not variant.hpz:
        return f"{WHAT['zero3'].partition(':')[0]}: {_said(variant)}"
    return _said(variant)


def _said(variant: Variant) -> str:
    points = [(axis, getattr(variant, axis)) for axis in (AXES if variant.hpz else EVENT_AXES)]
    sentence = "; ".join(_AXES[point] for point in points if point in _AXES) + "."
    return sentence[0].upper() + sentence[1:]


def _diff(base: dict[str, bytes], patched: dict[str, bytes], source: Path) -> str:
    """The unified diff between the release (with its base patches) and the variant."""
    texts: list[str] = []
    for name, content in sorted(patched.items()):
        before = base.get(name) or (source / name).read_bytes()
        old, new = (text.decode().splitlines(keepends=True) for text in (before, content))
        texts += difflib.unified_diff(old, new, f"a/deepspeed/{name}", f"b/deepspeed/{name}")
    return "".join(texts)
