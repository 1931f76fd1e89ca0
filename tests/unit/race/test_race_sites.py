"""Source places read the same on every machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.race.sites import short_file


def test_a_file_is_named_from_where_the_user_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert short_file(f"{tmp_path}/src/train.py") == "src/train.py"
    assert short_file("/elsewhere/train.py") == "/elsewhere/train.py"
    assert short_file(f"{tmp_path}/.venv/lib/site-packages/deepspeed/x.py") == "deepspeed/x.py"
    assert short_file(f"{tmp_path}/overlay/deepspeed/x.py") == "deepspeed/x.py"


def test_the_root_is_no_folder_to_leave_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")
    assert short_file("/train.py") == "/train.py"
