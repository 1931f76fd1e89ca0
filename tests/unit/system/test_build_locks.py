"""A lock file that an interrupted build left behind is told from one that is held."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.system import build_locks
from harness.system.build_locks import dead_locks, extensions_folder, sentence


def test_a_lock_that_nobody_holds_is_dead_and_named_with_the_way_out(tmp_path: Path) -> None:
    dead, held = tmp_path / "py311_cpu" / "fused_adam" / "lock", tmp_path / "py311_cpu" / "cpu_adam" / "lock"
    for lock in (dead, held):
        lock.parent.mkdir(parents=True)
        lock.touch()
    with held.open():
        assert dead_locks(tmp_path) == [dead]
    assert f"rm {dead}" in sentence(dead) and "fused_adam" in sentence(dead)


def test_a_build_for_another_device_is_none_of_this_torchs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TORCH_EXTENSIONS_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for build in ("py311_cpu", "py311_cu128"):
        (tmp_path / "torch_extensions" / build / "fused_adam").mkdir(parents=True)
        (tmp_path / "torch_extensions" / build / "fused_adam" / "lock").touch()
    monkeypatch.setattr(build_locks, "version", lambda _: "2.13.0+cpu")
    assert [lock.parent.parent.name for lock in dead_locks()] == ["py311_cpu"]
    monkeypatch.setattr(build_locks, "version", lambda _: "2.13.0")
    assert [lock.parent.parent.name for lock in dead_locks()] == ["py311_cpu", "py311_cu128"]


def test_torch_builds_where_it_is_told_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    (tmp_path / "fused_adam").mkdir()
    (tmp_path / "fused_adam" / "lock").touch()
    assert dead_locks() == [tmp_path / "fused_adam" / "lock"]
    monkeypatch.delenv("TORCH_EXTENSIONS_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert extensions_folder() == Path("/somewhere/torch_extensions")
