"""What is shipped lies in one layout, in a checkout and as a wheel lays it out."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from harness.system import places
from harness.system.errors import HarnessError


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package as a wheel installs it."""
    monkeypatch.setenv("HPZ_CACHE", str(tmp_path / "cache"))
    package = tmp_path / "site-packages" / "harness"
    for name in ("harness/door.py", "analysis/door.py", "harness/_shipped/patches/one.patch"):
        file = package.parent / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("")
    (package / "_shipped" / "content.sha256").write_text("1")
    return package


def test_an_installed_package_is_laid_out_as_a_checkout(installed: Path, tmp_path: Path) -> None:
    tree = places.laid_out(installed)
    assert tree.is_relative_to(tmp_path / "cache")
    found = sorted(str(path.relative_to(tree)) for path in tree.rglob("*") if path.is_file())
    assert found == ["analysis/door.py", "harness/door.py", "patches/one.patch"]
    assert places.laid_out(installed) == tree and len(list(tree.parent.iterdir())) == 1


def test_other_content_is_laid_out_anew(installed: Path) -> None:
    before = places.laid_out(installed)
    (installed / "_shipped" / "content.sha256").write_text("2")
    assert places.laid_out(installed) != before


def test_a_cache_that_cannot_be_written_is_named(
    installed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HPZ_CACHE", str(tmp_path / "file"))
    with pytest.raises(HarnessError, match="set HPZ_CACHE to a folder that can"):
        places.laid_out(installed)


def test_a_shipped_study_is_found_from_an_empty_folder(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "harness.cli", "plan", "experiments/historical.yaml"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
        env={"PYTHONPATH": str(places.REPOSITORY), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "llama2-toy-unaligned_event" in done.stdout
