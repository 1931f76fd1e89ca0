"""Where DeepSpeed cannot be imported, one sentence says how that failed and which two releases do not go together."""

from __future__ import annotations

import gc
from importlib.metadata import version
from pathlib import Path

import pytest

from harness.system.errors import HarnessError
from harness.system.imports import explained_imports, explanation, quick_imports


def deepspeed(folder: Path, *, release: str | None) -> None:
    (folder / "deepspeed").mkdir()
    (folder / "deepspeed" / "__init__.py").touch()
    if release:
        (folder / "deepspeed" / "git_version_info_installed.py").write_text(f"version='{release}'\n")


def test_both_releases_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deepspeed(tmp_path, release="0.13.4")
    monkeypatch.syspath_prepend(tmp_path)
    assert explanation(ImportError("cannot import name 'x' from 'torch.y'")) == (
        f"DeepSpeed 0.13.4 cannot be imported with torch {version('torch')} (ImportError: cannot import name 'x' from "
        "'torch.y'); most likely this torch is not one for that DeepSpeed: take another release of either"
    )


def test_a_deepspeed_that_does_not_say_its_release_is_named_by_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deepspeed(tmp_path, release=None)
    monkeypatch.syspath_prepend(tmp_path)
    said = explanation(AttributeError("first line\n  the last"))
    assert said.startswith(f"DeepSpeed in {tmp_path}/deepspeed cannot be imported")
    assert "(AttributeError: the last)" in said


def test_what_is_not_installed_is_named_with_how_to_install_it() -> None:
    error = ModuleNotFoundError("No module named 'deepspeed'", name="deepspeed")
    assert (
        explanation(error) == "deepspeed is not installed here; install this package with its [train] extra"
    )


def test_the_sentence_is_the_last_line_after_the_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="cannot be imported with torch"), explained_imports():
        raise ImportError("no such name")
    assert capsys.readouterr().err.splitlines()[-1] == "ImportError: no such name"


def test_a_sentence_for_the_user_stays_as_it_is() -> None:
    with pytest.raises(SystemExit, match=r"^device cuda: no GPU here$"), explained_imports():
        raise HarnessError("device cuda: no GPU here")


def test_imports_are_quick_and_what_was_imported_is_not_collected_later() -> None:
    before = gc.get_freeze_count()
    with quick_imports():
        assert not gc.isenabled()
    assert gc.isenabled() and gc.get_freeze_count() > before
