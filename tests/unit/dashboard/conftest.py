"""A made-up study with its report, only to be read; tests that push copy it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from analysis.page.report import build_report
from tests.synthetic import fake_patches, write_study


@pytest.fixture(scope="session")
def reported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dashboards") / "made-up"
    with pytest.MonkeyPatch.context() as patch:
        fake_patches(patch)
        write_study(folder)
        build_report(folder)
    return folder


@pytest.fixture
def results(reported: Path, tmp_path: Path) -> Path:
    """A copy to push from."""
    return Path(shutil.copytree(reported, tmp_path / "results"))
