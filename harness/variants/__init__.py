"""Variants of DeepSpeed: what they are called, and overlays that put exactly one of them under a training."""

from __future__ import annotations

from harness.variants.overlay import check_overlay, overlay_path
from harness.variants.series import Series, installed_release, load_series, patch_hashes, supported_releases
from harness.variants.sources import cache_folder, release_source
from harness.variants.variant import NAMED, Variant, all_variants

__all__ = [
    "NAMED",
    "Series",
    "Variant",
    "all_variants",
    "cache_folder",
    "check_overlay",
    "installed_release",
    "load_series",
    "overlay_path",
    "patch_hashes",
    "release_source",
    "supported_releases",
]
