"""What `hpz race --config` lays over a script's own DeepSpeed configuration."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.race.adapt import overlaid, read_config
from harness.system.errors import HarnessError


@pytest.mark.parametrize(("content", "why"), [("{", "neither JSON nor Hjson"), ("[1]", "one object of keys")])
def test_a_file_that_is_no_configuration_is_named(tmp_path: Path, content: str, why: str) -> None:
    file = tmp_path / "ds_config.json"
    file.write_text(content)
    with pytest.raises(HarnessError, match=rf"ds_config.json: .*{why}"):
        read_config(file)


def test_a_configuration_that_is_not_there_is_named() -> None:
    with pytest.raises(HarnessError, match=r"nowhere.json: cannot be read"):
        read_config("nowhere.json")


def test_the_keys_of_the_file_win_and_auto_leaves_what_is_there() -> None:
    base = {"bf16": {"enabled": True}, "zero_optimization": {"stage": 3, "overlap_comm": True}}
    top = {"bf16": "auto", "zero_optimization": {"overlap_comm": False}}
    assert overlaid(base, top) == {
        "bf16": {"enabled": True},
        "zero_optimization": {"stage": 3, "overlap_comm": False},
    }
