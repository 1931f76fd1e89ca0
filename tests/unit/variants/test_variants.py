"""Variants: their names, and the overlays that hold them."""

from __future__ import annotations

import json
import multiprocessing
import py_compile
from importlib.util import cache_from_source
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.system.errors import HarnessError
from harness.system.places import cache_folder
from harness.variants import (
    NAMED,
    Variant,
    all_variants,
    check_overlay,
    describe,
    installed_release,
    overlay_path,
    supported_releases,
    verify,
    verify_overlay,
)
from harness.variants.series import sha256
from harness.variants.sources import release_source, resolve
from harness.variants.syntax import FILES, OFFLOAD, PARTITION, STAGE3
from harness.variants.verify import loaded_files

needs_deepspeed = pytest.mark.skipif(
    installed_release() not in supported_releases(), reason="no supported DeepSpeed"
)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache in a folder with a space in its name."""
    folder = tmp_path / "a cache"
    monkeypatch.setenv("HPZ_CACHE", str(folder))
    return folder


# --- names ---------------------------------------------------------------------------------------------------------


@given(st.sampled_from(all_variants()))
def test_every_name_parses_back(variant: Variant) -> None:
    assert Variant.parse(variant.name) == variant


def test_names_are_distinct() -> None:
    assert len({variant.name for variant in all_variants()}) == len(all_variants()) == 36


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("old+none", "stock"),
        ("new+event", "event"),
        ("fixed+step", "new+stream-sync+step"),
        ("stock+load", "old+none+load"),
        (" Event ", "event"),
        ("new+event+step+load", "event+step+load"),
        ("zero3+load", "zero3+load"),
    ],
)
def test_axis_values_and_their_ends_are_accepted(text: str, name: str) -> None:
    assert Variant.parse(text).name == name


def test_unknown_name_names_the_nearest() -> None:
    with pytest.raises(HarnessError, match="'evnt' is not a variant; did you mean 'event'"):
        Variant.parse("evnt")


def test_a_value_outside_its_axis_is_refused() -> None:
    with pytest.raises(HarnessError, match="variant: order='later' is not one of none, stream-sync"):
        Variant(order="later")  # type: ignore[arg-type]


def test_without_hpz_there_is_no_copy_to_choose() -> None:
    with pytest.raises(HarnessError, match="without hpZ there is no secondary copy"):
        Variant(hpz=False, copy="old")


# --- overlays ------------------------------------------------------------------------------------------------------


def test_cache_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("HPZ_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "hpz-lab"
    monkeypatch.setenv("HPZ_CACHE", str(tmp_path / "own"))
    assert cache_folder() == tmp_path / "own"


@needs_deepspeed
def test_overlay_holds_the_variant_and_leaves_the_installed_files_alone(cache: Path) -> None:
    source = release_source(str(installed_release()))
    before = sha256(source / PARTITION)
    overlay = overlay_path(NAMED["event"])
    patched = overlay / "deepspeed" / PARTITION
    assert "ds_secondary_ready_event.record()" in patched.read_text()
    assert patched.stat().st_nlink == 1
    assert sha256(source / PARTITION) == before


@needs_deepspeed
def test_equal_content_is_one_overlay(cache: Path) -> None:
    assert overlay_path(NAMED["zero3"]) == overlay_path(NAMED["fixed"])
    assert overlay_path(NAMED["event"]) != overlay_path(NAMED["fixed"])


@needs_deepspeed
def test_overlay_is_built_where_hard_links_are_refused(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError("Invalid cross-device link")

    monkeypatch.setattr("harness.variants.overlay.os.link", refuse)
    check_overlay(overlay_path(NAMED["fixed"]))


@needs_deepspeed
def test_what_python_has_compiled_serves_the_overlay_but_for_patched_files(cache: Path) -> None:
    installed = release_source(str(installed_release()))
    for name in (PARTITION, "runtime/config.py"):
        py_compile.compile(str(installed / name))
    overlay = overlay_path(NAMED["event"]) / "deepspeed"
    assert Path(cache_from_source(str(overlay / "runtime/config.py"))).is_file()
    assert not Path(cache_from_source(str(overlay / PARTITION))).exists()


def _build(name: str) -> str:
    return str(overlay_path(Variant.parse(name)))


@needs_deepspeed
def test_two_processes_may_build_at_once(cache: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        paths = pool.map(_build, ["stock"] * 4, chunksize=1)
    assert len(set(paths)) == 1
    assert [path.name for path in (cache / "overlays").iterdir()] == [Path(paths[0]).name]


@needs_deepspeed
@pytest.mark.parametrize("how", ["altered", "removed", "added"])
def test_tampering_is_one_sentence(cache: Path, how: str) -> None:
    overlay = overlay_path(NAMED["event"])
    file = overlay / "deepspeed" / (STAGE3 if how != "added" else "extra.py")
    file.unlink(missing_ok=True)
    if how != "removed":
        file.write_text("import this\n")
    sentence = rf"overlay .*: deepspeed/.*\.py was {how} after it was built; delete the folder and run again"
    with pytest.raises(HarnessError, match=sentence):
        overlay_path(NAMED["event"])


@needs_deepspeed
def test_unreadable_manifest_is_one_sentence(cache: Path) -> None:
    overlay = overlay_path(NAMED["event"])
    (overlay / "overlay.json").write_text("{")
    with pytest.raises(HarnessError, match=r"overlay.json is unreadable; delete the folder and run again"):
        overlay_path(NAMED["event"])


@needs_deepspeed
def test_edited_package_is_refused(cache: Path, tmp_path: Path) -> None:
    source = _copy_of_package(tmp_path)
    (source / STAGE3).write_text("")
    with pytest.raises(HarnessError, match=r"stage3.py is not the file of DeepSpeed .*; reinstall it"):
        overlay_path(NAMED["event"], source=source)


@needs_deepspeed
def test_full_disk_is_one_sentence(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("harness.variants.overlay.tempfile.mkdtemp", full)
    with pytest.raises(
        HarnessError, match=r"cannot build an overlay there \(No space left on device\); make room"
    ):
        overlay_path(NAMED["event"])


@needs_deepspeed
def test_python_caches_do_not_count_as_tampering(cache: Path) -> None:
    overlay = overlay_path(NAMED["event"])
    (overlay / "deepspeed" / "__pycache__").mkdir(exist_ok=True)
    (overlay / "deepspeed" / "__pycache__" / "x.pyc").write_bytes(b"")
    check_overlay(overlay)


# --- verification --------------------------------------------------------------------------------------------------


@needs_deepspeed
@pytest.mark.parametrize("variant", all_variants(), ids=str)
def test_every_variant_verifies(variant: Variant, cache: Path) -> None:
    assert verify(variant, imports=False).variant == variant.name


@needs_deepspeed
@pytest.mark.slow
def test_python_really_loads_the_overlay(cache: Path) -> None:
    found = verify(NAMED["event+step+load"])
    assert found.loaded is not None
    assert set(found.loaded) == {PARTITION, OFFLOAD, STAGE3}
    assert all(file.startswith(str(found.path)) for file in found.loaded.values())


@needs_deepspeed
def test_an_overlay_of_another_variant_is_told(cache: Path) -> None:
    series, source = resolve(None)
    overlay = overlay_path(NAMED["unordered"])
    with pytest.raises(
        HarnessError, match=r"is not event: .*_partition_param_sec: what follows the copy is not order=event"
    ):
        verify_overlay(overlay, NAMED["event"], series, source, imports=False)


SYNC = "                get_accelerator().current_stream().synchronize()\n"
COPY = "                        one_dim_param.narrow(0, secondary_start, sec_numel))\n"
GATHER = "                world_size = self.num_ranks_in_param_group\n"
PLANTED = {
    "a second wait": (PARTITION, SYNC, SYNC * 2, "what follows the copy is not order=stream-sync"),
    "no wait": (PARTITION, SYNC, SYNC.replace("synchronize()", "query()"), "what follows the copy is not"),
    "a read by the host": (
        PARTITION,
        COPY,
        COPY + "                one_dim_param[0].item()\n",
        "the copy is not the new one",
    ),
    "a wait before the gather": (
        PARTITION,
        GATHER,
        GATHER + "                get_accelerator().synchronize()\n",
        "what precedes the gather is not order=stream-sync",
    ),
    "a wait elsewhere": (
        STAGE3,
        "        self._pre_step()\n",
        "        self._pre_step()\n        get_accelerator().synchronize()\n",
        "differs from the release outside the lines under test",
    ),
    "an order after the step": (
        STAGE3,
        "        self.invalidate_secondary_tensor()\n\n        self.timers",
        "        self.parameter_offload.order_all_gathers_after_current_stream()\n\n        self.timers",
        "the all-gather stream is not ordered as step=none says",
    ),
    "an order before the pass": (
        OFFLOAD,
        "            self.get_param_coordinator().reset_step()\n",
        "            self.get_param_coordinator().reset_step()\n"
        "            if not get_accelerator().resolves_data_dependency():\n"
        "                self.__allgather_stream.wait_stream(get_accelerator().current_stream())\n",
        "the start of a forward pass is not ordered as load=none says",
    ),
}


@needs_deepspeed
@pytest.mark.parametrize("what", PLANTED)
def test_syntax_check_catches_a_planted_deviation(what: str, cache: Path) -> None:
    file, old, new, sentence = PLANTED[what]
    series, source = resolve(None)
    overlay = overlay_path(NAMED["fixed"])
    path = overlay / "deepspeed" / file
    text = path.read_text()
    assert old in text
    path.unlink()  # else the hard link would write into the installed package
    path.write_text(text.replace(old, new, 1))
    _pass_hash_check(overlay, file)
    with pytest.raises(HarnessError, match=sentence):
        verify_overlay(overlay, NAMED["fixed"], series, source, imports=False)


@needs_deepspeed
@pytest.mark.parametrize(
    ("file", "sentence"),
    [
        (PARTITION, rf"{PARTITION} is not what patches/releases.toml pins for fixed"),
        ("constants.py", r"constants.py is not the file of .*deepspeed"),
    ],
)
def test_a_comment_is_enough_to_fail_the_pinned_hashes(file: str, sentence: str, cache: Path) -> None:
    series, source = resolve(None)
    overlay = overlay_path(NAMED["fixed"])
    path = overlay / "deepspeed" / file
    text = path.read_text()
    path.unlink()  # else the hard link would write into the installed package
    path.write_text(text + "# looks innocent\n")
    _pass_hash_check(overlay, file)
    with pytest.raises(HarnessError, match=sentence):
        verify_overlay(overlay, NAMED["fixed"], series, source, imports=False)


def test_an_overlay_that_cannot_be_imported_is_one_sentence(tmp_path: Path) -> None:
    write_package(tmp_path, init="raise ImportError('no such accelerator')")
    with pytest.raises(
        HarnessError, match=r"cannot be imported from it \(ImportError: no such accelerator\)"
    ):
        loaded_files(tmp_path)


def test_a_file_that_python_loads_from_elsewhere_is_named(tmp_path: Path) -> None:
    elsewhere = write_package(tmp_path / "elsewhere")
    overlay = write_package(tmp_path / "overlay", init=f"__path__ = [{str(elsewhere / 'deepspeed')!r}]")
    sentence = rf"Python loads {PARTITION} from {elsewhere}/deepspeed/{PARTITION}, not from the overlay"
    with pytest.raises(HarnessError, match=sentence):
        loaded_files(overlay)
    assert list(loaded_files(elsewhere)) == [PARTITION, OFFLOAD, STAGE3]


def write_package(folder: Path, init: str = "") -> Path:
    """A package that calls itself DeepSpeed, with the files under test empty."""
    for name in FILES:
        file = folder / "deepspeed" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("")
    (folder / "deepspeed" / "__init__.py").write_text(init)
    return folder


@needs_deepspeed
def test_description_shows_the_lines(cache: Path) -> None:
    description = describe(NAMED["event"])
    assert "+                param.ds_secondary_ready_event.record()" in description.diff
    assert description.what.startswith("The right copy, ordered on the device by an event")
    assert describe(NAMED["fixed"]).diff == ""
    assert describe(Variant.parse("old+event")).what == (
        "The copy of before 0.13.5, which leaves elements unwritten on sizes that do not divide; "
        "the all-gather stream waits for an event recorded after the copy."
    )


def _copy_of_package(folder: Path) -> Path:
    """A copy of the installed package's files under test, and nothing else."""
    source = release_source(str(installed_release()))
    for name in (PARTITION, OFFLOAD, STAGE3):
        target = folder / "deepspeed" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((source / name).read_bytes())
    return folder / "deepspeed"


def _pass_hash_check(overlay: Path, file: str) -> None:
    """Writes the file's hash into the manifest, so that only the syntax check is left to catch it."""
    manifest = json.loads((overlay / "overlay.json").read_text())
    manifest["files"][f"deepspeed/{file}"] = sha256(overlay / "deepspeed" / file)
    (overlay / "overlay.json").write_text(json.dumps(manifest))
