"""Variants of DeepSpeed: what they are called, and overlays that put exactly one of them under a training."""

from __future__ import annotations

from harness.variants.describe import Description, describe, release_notes
from harness.variants.families import version_key
from harness.variants.overlay import check_overlay, overlay_path, overlay_with
from harness.variants.series import (
    UNPINNED,
    Series,
    installed_release,
    load_series,
    precondition_note,
    release_ranges,
    split_release,
    supported_releases,
)
from harness.variants.sources import (
    patch_hashes,
    release_source,
    released_variant,
    source_release,
)
from harness.variants.variant import NAMED, Variant, all_variants
from harness.variants.verify import Verification, verify, verify_overlay

__all__ = [
    "NAMED",
    "UNPINNED",
    "Description",
    "Series",
    "Variant",
    "Verification",
    "all_variants",
    "check_overlay",
    "describe",
    "installed_release",
    "load_series",
    "overlay_path",
    "overlay_with",
    "patch_hashes",
    "precondition_note",
    "release_notes",
    "release_ranges",
    "release_source",
    "released_variant",
    "source_release",
    "split_release",
    "supported_releases",
    "verify",
    "verify_overlay",
    "version_key",
]
