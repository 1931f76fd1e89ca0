"""Releases: every one is pinned, a new one is adopted by one command, and bad input is told in a sentence."""

from __future__ import annotations

import multiprocessing
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from harness.system.errors import HarnessError
from harness.variants import (
    NAMED,
    families,
    installed_release,
    load_series,
    overlay_path,
    patch_hashes,
    precondition_note,
    release_ranges,
    release_source,
    released_variant,
    source_release,
    supported_releases,
    verify,
)
from harness.variants import adopt as adopting
from harness.variants.adopt import adopt, render
from harness.variants.archive import check_complete, fetch
from harness.variants.families import read_table
from harness.variants.fit import fit
from harness.variants.series import TABLE, version_key
from harness.variants.sources import resolve
from harness.variants.syntax import FILES, PARTITION, STAGE3
from tests.releases import pristine

# The first release of each family, the newest, and some from between; `hpz patch verify --all-releases` takes all.
SAMPLE = (
    "0.10.0", "0.12.6", "0.13.2", "0.13.5", "0.14.2", "0.14.4", "0.15.4", "0.16.9", "0.17.6", "0.18.3", "0.19.3",
    "0.19.8",
)  # fmt: skip


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("HPZ_CACHE", str(folder))
    return folder


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of the patches that may be written to."""
    folder = tmp_path / "patches"
    shutil.copytree(adopting.PATCHES, folder)
    for module in ("families", "adopt"):
        monkeypatch.setattr(f"harness.variants.{module}.PATCHES", folder)
    read_table.cache_clear()
    yield folder / TABLE
    read_table.cache_clear()


def package(folder: Path, release: str, **changed: str) -> Path:
    """A package of DeepSpeed with the files under test of `release`, some of them `changed`."""
    source = pristine(release)
    for name in FILES:
        target = folder / "deepspeed" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(changed.get(Path(name).stem, (source / name).read_text()))
    return folder / "deepspeed"


# --- the table -----------------------------------------------------------------------------------------------------


def test_every_release_with_hpz_is_pinned_oldest_first() -> None:
    assert release_ranges() == (
        "0.10.0–0.10.3, 0.11.0–0.11.2, 0.12.0–0.12.6, 0.13.0–0.13.5, 0.14.0–0.14.5, 0.15.0–0.15.4, 0.16.0–0.16.9, "
        "0.17.0–0.17.6, 0.18.0–0.18.9, 0.19.0–0.19.8"
    )
    assert len(supported_releases()) == 67


def test_the_table_is_as_it_is_written() -> None:
    assert (adopting.PATCHES / TABLE).read_text() == render(read_table(TABLE))


@pytest.mark.slow
@pytest.mark.parametrize("release", SAMPLE)
def test_the_table_is_as_computed_from_the_sources(release: str) -> None:
    assert not adopt(release, pristine(release), check=True).news


@pytest.mark.every_release
@pytest.mark.parametrize("release", [release for release in supported_releases() if release not in SAMPLE])
def test_the_table_is_as_computed_from_the_sources_of_every_other_release(release: str) -> None:
    assert not adopt(release, pristine(release), check=True).news


@pytest.mark.slow
@pytest.mark.parametrize("release", SAMPLE)
def test_event_and_stock_are_proved_and_python_loads_event(release: str) -> None:
    pristine(release)
    assert verify(NAMED["event"], release).loaded
    assert verify(NAMED["stock"], release, imports=False).release == release


@pytest.mark.parametrize(("text", "key"), [("0.13.4", (0, 13, 4)), ("0.19.8+cu128", (0, 19, 8)), ("new", ())])
def test_version_key(text: str, key: tuple[int, ...]) -> None:
    assert version_key(text) == key


def test_patch_hashes_name_the_patches_of_a_variant() -> None:
    assert list(patch_hashes(NAMED["stock"], "0.19.8")) == ["copy-old.patch", "order-none.patch"]
    assert patch_hashes(NAMED["fixed"], "0.19.8") == {}
    assert "base-pydantic-v1.patch" in patch_hashes(NAMED["zero3"], "0.10.0")


def test_a_release_without_the_precondition_says_so() -> None:
    for release in ("0.10.3", "0.12.6", "0.13.1"):
        assert "trains on stale weights, whatever orders its copy" in precondition_note(release)
    assert [precondition_note(release) for release in ("0.10.2", "0.13.2", "0.19.8")] == ["", "", ""]


def test_a_table_that_lacks_a_patched_file_names_the_command() -> None:
    series = load_series("0.12.6")
    series = replace(series, files={name: of for name, of in series.files.items() if name != PARTITION})
    with pytest.raises(HarnessError, match=r"0.12.6, event: .* is not pinned; .*`hpz patch adopt 0.12.6`"):
        series.after(NAMED["event"])


@pytest.mark.parametrize("missing", ["families.toml", TABLE])
def test_patches_that_did_not_come_along_are_one_sentence(table: Path, missing: str) -> None:
    (table.parent / missing).unlink()
    with pytest.raises(HarnessError, match=f"{missing} is missing; install hpZ Lab from its clone"):
        read_table(missing)


# --- releases that are not in it -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("release", "sentence"),
    [
        ("0.9.5", r"0.9.5 has no hpZ, which came with 0.10.0"),
        (
            "0.20.1",
            r"0.20.1 is newer than all that are pinned \(0.10.0 to 0.19.8\); with --unpinned, .*adopt 0.20.1",
        ),
        ("0.16.99", r"0.16.99 is not pinned \(0.10.0 to 0.19.8\); with --unpinned"),
        ("newest", r"'newest' is not a release; write it as 0.19.8 or as '0.19.8 unpinned'"),
        ("../0.19.8 unpinned", r"is not a release; write it as"),
        ("0.19.8 pinned", r"'0.19.8 pinned' is not a release; write it as 0.19.8 or as '0.19.8 unpinned'"),
    ],
)
def test_an_unknown_release_is_refused_and_the_flag_is_named(release: str, sentence: str) -> None:
    with pytest.raises(HarnessError, match=sentence):
        overlay_path(NAMED["event"], release)


def test_an_unknown_release_takes_the_patches_that_apply_where_asked_for(cache: Path, tmp_path: Path) -> None:
    stage3 = (pristine("0.19.8") / STAGE3).read_text() + "\nVENDOR = True\n"
    source = package(tmp_path, "0.19.8", stage3=stage3)
    found = verify(NAMED["event+step+load"], "0.20.1 unpinned", source, imports=False)
    assert found.release == "0.20.1 unpinned"
    assert "0.20.1-unpinned" in found.path.name
    assert "VENDOR = True" in (found.path / "deepspeed" / STAGE3).read_text()


def test_of_an_unknown_release_only_what_fits_is_made(cache: Path, tmp_path: Path) -> None:
    partition = (
        (pristine("0.19.8") / PARTITION).read_text().replace("Zero any uncovered padding", "Zero the padding")
    )
    source = package(tmp_path, "0.19.8", partition_parameters=partition)
    assert verify(NAMED["event"], "0.20.1 unpinned", source, imports=False).hashes
    with pytest.raises(HarnessError, match="variant stock: no patch for copy=old fits this DeepSpeed"):
        overlay_path(NAMED["stock"], "0.20.1 unpinned", source)


def test_a_package_whose_hpz_is_built_otherwise_is_refused(cache: Path, tmp_path: Path) -> None:
    source = package(tmp_path, "0.19.8", partition_parameters="class Init:\n    pass\n")
    with pytest.raises(HarnessError, match=r"no family of patches fits it .*a person must look"):
        fit("0.20.1", source)


def test_a_vendors_build_with_the_files_of_a_release_is_that_release(monkeypatch: pytest.MonkeyPatch) -> None:
    source = pristine("0.16.9")
    assert resolve("0.16.9+cu128", source)[0].release == "0.16.9"
    assert patch_hashes(NAMED["event"], "0.16.9+cu128") == patch_hashes(NAMED["event"], "0.16.9")


def test_an_altered_file_names_the_release_or_the_way_out(tmp_path: Path) -> None:
    source = package(tmp_path, "0.18.3", stage3="")
    with pytest.raises(HarnessError, match=r"is not the file of DeepSpeed 0.18.3; reinstall it .*--unpinned"):
        resolve("0.18.3", source)
    with pytest.raises(
        HarnessError, match=r"is not the file of DeepSpeed 0.19.8 but of 0.18.3 or 0.18.4; name"
    ):
        resolve("0.19.8", pristine("0.18.3"))


def test_a_checkout_is_told_from_a_release(tmp_path: Path) -> None:
    source = package(tmp_path, "0.18.3", stage3="")
    (tmp_path / ".git").mkdir()
    (tmp_path / "version.txt").write_text("0.18.3\n")
    with pytest.raises(
        HarnessError, match=rf"{tmp_path} is a git checkout, and its .*stage3.py is not that of"
    ):
        resolve("0.18.3", source)
    with pytest.raises(HarnessError, match=rf"is not its package folder; give {tmp_path}/deepspeed"):
        resolve("0.18.3", tmp_path)


def test_a_package_says_which_release_it_is(tmp_path: Path) -> None:
    source = package(tmp_path, "0.18.3")
    assert source_release(source) is None
    (tmp_path / "version.txt").write_text("0.18.4\n")
    assert source_release(source) == "0.18.4"
    (source / "git_version_info_installed.py").write_text("version='0.18.3+cu128'\n")
    assert source_release(source) == "0.18.3"


def test_absent_deepspeed_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.variants.sources.installed_release", lambda: None)
    with pytest.raises(HarnessError, match=r"DeepSpeed is not installed here; install deepspeed==0.19.8"):
        overlay_path(NAMED["event"])


# --- adopting ------------------------------------------------------------------------------------------------------


def test_a_new_release_is_pinned_and_says_what_to_look_at(table: Path, tmp_path: Path) -> None:
    stage3 = (pristine("0.19.8") / STAGE3).read_text() + "\n# a new release\n"
    found = adopt("0.19.9", package(tmp_path, "0.19.8", stage3=stage3))
    assert (found.family, found.before, found.changed, found.news) == ("0.19.5", "0.19.8", [STAGE3], True)
    assert "0.19.9" in read_table(TABLE)
    assert not adopt("0.19.9", package(tmp_path, "0.19.8", stage3=stage3)).news


def test_a_release_that_no_family_fits_writes_nothing(table: Path, tmp_path: Path) -> None:
    before = table.read_text()
    partition = (
        (pristine("0.19.8") / PARTITION).read_text().replace("Zero any uncovered padding", "Zero the padding")
    )
    with pytest.raises(
        HarnessError, match=r"no family of patches fits it; nearest is 0.19.5, where copy=old: .*"
    ):
        adopt("0.19.9", package(tmp_path, "0.19.8", partition_parameters=partition))
    assert table.read_text() == before


@pytest.mark.parametrize("release", ["newest", "0.19.8 unpinned", "0.16.4+vendor"])
def test_only_what_was_published_is_pinned(release: str, tmp_path: Path) -> None:
    with pytest.raises(HarnessError, match=r"is not a published release such as 0\.19\.8"):
        adopt(release, tmp_path)


def _adopt(release: str, source: Path, patches: Path) -> None:
    families.PATCHES = adopting.PATCHES = patches
    adopt(release, source)


def test_two_may_adopt_at_once_and_neither_is_lost(table: Path, tmp_path: Path) -> None:
    source = package(tmp_path, "0.19.8")
    spawn = multiprocessing.get_context("spawn")  # not fork: this process may have threads that hold locks
    both = [
        spawn.Process(target=_adopt, args=(release, source, table.parent)) for release in ("0.19.9", "0.20.0")
    ]
    for process in both:
        process.start()
    for process in both:
        process.join()
    read_table.cache_clear()
    assert {"0.19.9", "0.20.0"} <= read_table(TABLE).keys()


# --- fetching ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_release_whose_setup_cannot_run_is_fetched_all_the_same(cache: Path) -> None:
    source = pristine("0.11.0")
    check_complete("0.11.0", source)
    resolve("0.11.0", source)
    assert [path.name for path in (cache / "releases").iterdir()] == ["0.11.0"]


def test_release_that_cannot_be_fetched_is_one_sentence(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, 1, "", "noise\nERROR: no route to host\n")

    monkeypatch.setattr("harness.variants.archive.subprocess.run", refuse)
    with pytest.raises(HarnessError, match=r"0.18.0 cannot be fetched \(no route to host\); connect to"):
        fetch("0.18.0", cache / "releases" / "0.18.0" / "deepspeed")
    assert list((cache / "releases").iterdir()) == []


def test_a_half_unpacked_release_is_one_sentence(cache: Path) -> None:
    folder = cache / "releases" / "0.18.3"
    source = package(folder, "0.18.3")
    (folder / "files.json").write_text('{"runtime/zero/stage3.py": 1, "constants.py": 900}\n')
    with pytest.raises(
        HarnessError, match=r"only partly there \(2 of 2 files .*\); delete .*0.18.3 and run again"
    ):
        release_source("0.18.3")
    assert source.is_dir()


def test_the_cache_serves_what_was_put_there_by_hand(cache: Path) -> None:
    package(cache / "releases" / "0.18.3", "0.18.3")
    if installed_release() != "0.18.3":
        assert release_source("0.18.3") == cache / "releases" / "0.18.3" / "deepspeed"


def test_variants_of_a_release_as_released() -> None:
    assert [released_variant(name).name for name in ("0.13.4", "0.13.5")] == [
        "stock",
        "fixed",
    ]
