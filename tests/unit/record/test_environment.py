"""What surrounds a run is written down once, without what is secret."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.record import RunDirectory
from harness.record.environment import NAME, environments, record_environment
from tests.planted import PLANTED, leaks
from tests.submitted import command

VERSIONS = {"torch": "2.13.0", "cuda": "12.9", "nccl": "2.27.3", "cudnn": None}


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunDirectory:
    for name, value in PLANTED.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("NCCL_DEBUG", "WARN")
    return RunDirectory(tmp_path)


def test_versions_packages_and_variables_are_recorded_without_secrets(directory: RunDirectory) -> None:
    record_environment(directory, VERSIONS)
    (found,) = environments(directory)
    assert found["torch"] == VERSIONS and found["packages"]["numpy"] and found["system"].startswith("Linux")
    assert found["variables"]["NCCL_DEBUG"] == "WARN" and not found["variables"].keys() & PLANTED.keys()
    assert leaks(directory.path) == []


def test_a_line_is_added_only_where_something_has_changed(
    directory: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    record_environment(directory, VERSIONS)
    record_environment(directory, VERSIONS)
    assert len(environments(directory)) == 1
    monkeypatch.setenv("NCCL_DEBUG", "INFO")
    record_environment(directory, VERSIONS)
    assert [line["variables"]["NCCL_DEBUG"] for line in environments(directory)] == ["WARN", "INFO"]


def test_cards_driver_and_topology_are_those_that_nvidia_smi_tells(
    directory: RunDirectory, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    cards = "0, NVIDIA H100, 570.1, 96.0, 81559 MiB, 0:1, 700 W"
    answers = f'case "$1" in topo) echo "GPU0 X NV18";; *) echo "{cards}";; esac'
    command(tmp_path, "nvidia-smi", answers)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    record_environment(directory, VERSIONS)
    (found,) = environments(directory)
    assert found["gpus"][0]["driver_version"] == "570.1" and found["topology"] == "GPU0 X NV18"


def test_a_half_written_line_hides_no_other(directory: RunDirectory) -> None:
    (directory.path / NAME).write_text(json.dumps({"host": "a"}) + '\n{"host": ')
    assert environments(directory) == [{"host": "a"}]


def test_what_cannot_be_written_harms_no_run(
    directory: RunDirectory, capsys: pytest.CaptureFixture[str]
) -> None:
    (directory.path / NAME).mkdir()
    record_environment(directory, VERSIONS)
    assert "the environment was not recorded" in capsys.readouterr().out
