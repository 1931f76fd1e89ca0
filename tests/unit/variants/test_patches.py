"""Patches: each applies to the release it is for, comes out as pinned, and reads like a letter."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from harness.system.errors import HarnessError
from harness.variants import (
    NAMED,
    all_variants,
    installed_release,
    load_series,
    release_source,
    supported_releases,
)
from harness.variants.apply import apply_patches, check_hashes, patched_files, rehash, touched_files
from harness.variants.series import PATCHES

ALL = sorted(PATCHES.glob("deepspeed-*/*.patch"))


def pristine(release: str) -> Path:
    """The release's package folder, or a skip with the reason where it cannot be had."""
    try:
        return release_source(release)
    except HarnessError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("release", supported_releases())
def test_series_covers_every_variant(release: str) -> None:
    series = load_series(release)
    assert set(series.after) == {variant.name for variant in all_variants()}
    used = {path for variant in all_variants() for path in series.patches_of(variant)}
    assert used == set(series.folder.glob("*.patch"))


@pytest.mark.parametrize("patch", ALL, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_patch_is_a_letter(patch: Path) -> None:
    head, _, diff = patch.read_text().partition("---\ndiff --git ")
    for line in ("From: ", "Date: ", "Subject: [PATCH] ", "Origin: ", "Forwarded: ", "Applied-Upstream: "):
        assert re.search(rf"^{re.escape(line)}\S", head, re.MULTILINE), f"{line} is missing"
    body = head.split("\n\n", 1)[1]
    assert len(body.split()) > 20, "says why before what"
    assert max(map(len, head.splitlines())) <= 100
    assert diff.count("\n+") + diff.count("\n-") < 60, "one idea, no cosmetic lines"


@pytest.mark.parametrize("patch", ALL, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_patch_changes_only_the_lines_under_test(patch: Path) -> None:
    allowed = {
        "order": {"runtime/zero/partition_parameters.py"},
        "copy": {"runtime/zero/partition_parameters.py"},
        "step": {"runtime/zero/parameter_offload.py", "runtime/zero/stage3.py"},
        "base": {"accelerator/cpu_accelerator.py", "autotuning/scheduler.py", "elasticity/elastic_agent.py"},
    }
    assert set(touched_files([patch])) <= allowed[patch.name.split("-")[0]]


def test_series_of_the_installed_release_is_as_computed() -> None:
    release = installed_release()
    if release not in supported_releases():
        pytest.skip(f"DeepSpeed {release} is installed; supported: {supported_releases()}")
    _check_series(str(release))


@pytest.mark.slow
@pytest.mark.parametrize("release", supported_releases())
def test_series_of_every_release_is_as_computed(release: str) -> None:
    pristine(release)
    _check_series(release)


def _check_series(release: str) -> None:
    series = load_series(release)
    source = pristine(release)
    for variant in all_variants():
        check_hashes(series, variant, patched_files(series, variant, source))
    assert rehash(release, source) == (series.folder / "series.toml").read_text()


def test_patches_apply_inside_somebodys_git_tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`git apply` in a sub-folder of a work tree skips files silently; the applier must not be taken in."""
    release = str(installed_release() or "0.19.8")
    source = pristine(release)
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "HEAD").write_text("ref: refs/heads/main\n")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    series = load_series(release)
    check_hashes(series, NAMED["event"], patched_files(series, NAMED["event"], source))


def test_patch_that_does_not_apply_is_one_sentence(tmp_path: Path) -> None:
    series = load_series("0.19.8")
    for name in series.before:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("nothing of DeepSpeed\n")
    with pytest.raises(
        HarnessError, match=r"deepspeed-0.19.8/order-event.patch does not apply: error: patch failed"
    ):
        patched_files(series, NAMED["event"], tmp_path)


def test_missing_git_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    patch = tmp_path / "empty.patch"
    patch.write_text("")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(HarnessError, match="git is not installed, and patches are applied with it"):
        apply_patches([patch], tmp_path)


def test_changed_outcome_names_the_key_and_the_command() -> None:
    series = load_series("0.19.8")
    with pytest.raises(
        HarnessError, match=r"series.toml: after.event: .* otherwise than pinned; .*hpz patch rehash 0.19.8"
    ):
        check_hashes(series, NAMED["event"], {"runtime/zero/partition_parameters.py": b"other"})
