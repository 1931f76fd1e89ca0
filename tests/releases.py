"""DeepSpeed releases for tests: their sources and overlays, or a skip with the reason where one cannot be had."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.system.errors import HarnessError
from harness.variants import Variant, overlay_path, release_source


def pristine(release: str) -> Path:
    """The release's package folder as it was published."""
    try:
        return release_source(release)
    except HarnessError as error:
        pytest.skip(str(error))


def overlay_of(variant: Variant, release: str) -> Path:
    """An overlay of the release."""
    try:
        return overlay_path(variant, release)
    except HarnessError as error:
        pytest.skip(str(error))
