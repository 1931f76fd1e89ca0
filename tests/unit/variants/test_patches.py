"""Patches: each applies to the release it is for, comes out as pinned, and reads like a letter."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from harness.system.errors import HarnessError
from harness.variants import NAMED, installed_release, load_series, supported_releases
from harness.variants.apply import apply_patches, check_hashes, patched_files
from harness.variants.families import PATCHES, base_patches, families, touched_files
from harness.variants.syntax import OFFLOAD, PARTITION, STAGE3
from tests.releases import pristine

ALL = sorted(path for path in PATCHES.glob("*/*.patch") if path.parent.name != "upstream")


def name_of(patch: Path) -> str:
    return f"{patch.parent.name}/{patch.name}"


def test_every_patch_belongs_to_a_family_or_to_old_releases() -> None:
    used = {PATCHES / patch for family in families() for patch in family.patches.values()}
    assert used | {patch for release in supported_releases() for patch in base_patches(release)} == set(ALL)


@pytest.mark.parametrize("patch", ALL, ids=name_of)
def test_patch_is_a_letter(patch: Path) -> None:
    head, _, diff = patch.read_text().partition("---\ndiff --git ")
    for line in ("From: ", "Date: ", "Subject: [PATCH] ", "Origin: ", "Forwarded: ", "Applied-Upstream: "):
        assert re.search(rf"^{re.escape(line)}\S", head, re.MULTILINE), f"{line} is missing"
    body = head.split("\n\n", 1)[1]
    assert len(body.split()) > 20, "says why before what"
    assert max(map(len, head.splitlines())) <= 100
    assert diff.count("\n+") + diff.count("\n-") < 60, "one idea, no cosmetic lines"


UNDER_TEST = {
    "copy": {PARTITION},
    "order": {PARTITION},
    "step": {OFFLOAD, STAGE3},
    "load": {OFFLOAD},
}


@pytest.mark.parametrize("patch", [patch for patch in ALL if patch.parent.name != "base"], ids=name_of)
def test_patch_changes_only_the_lines_under_test(patch: Path) -> None:
    assert set(touched_files([patch])) <= UNDER_TEST[patch.parent.name.split("-")[0]]


def test_what_old_releases_need_leaves_the_optimizer_and_the_streams_alone() -> None:
    touched = touched_files(patch for patch in ALL if patch.parent.name == "base")
    assert not {OFFLOAD, STAGE3} & set(touched)


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
    with pytest.raises(HarnessError, match=r"order-event/0.14.3.patch does not apply: error: patch failed"):
        patched_files(series, NAMED["event"], tmp_path)


def test_missing_git_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    patch = tmp_path / "empty.patch"
    patch.write_text("")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(HarnessError, match="git is not installed, and patches are applied with it"):
        apply_patches([patch], tmp_path)


def test_changed_outcome_names_the_key_and_the_command() -> None:
    series = load_series("0.19.8")
    sentence = r"releases.toml: 0.19.8, event: .* otherwise than pinned; .*hpz patch adopt 0.19.8"
    with pytest.raises(HarnessError, match=sentence):
        check_hashes(series, NAMED["event"], {PARTITION: b"other"})
