"""A YAML file that cannot serve is refused with one sentence that names it."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.system.errors import HarnessError
from harness.system.yaml_file import read_keys


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"given\.yaml: cannot be read \(No such file or directory\); give a study file"),
        (b"a: [", r"given\.yaml: not YAML: .*line 1"),
        (b"- 1\n- 2", r"given\.yaml: holds no keys; give a study file"),
        (b"", r"given\.yaml: holds no keys"),
        (b"\xff\xfe\x00", r"given\.yaml: not text in UTF-8"),
    ],
)
def test_a_file_without_keys_is_named(tmp_path: Path, content: bytes | None, message: str) -> None:
    file = tmp_path / "given.yaml"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(HarnessError, match=message):
        read_keys(file, "give a study file")


def test_keys_are_read(tmp_path: Path) -> None:
    file = tmp_path / "given.yaml"
    file.write_text("name: a\nruns: [1, 2]\n")
    assert read_keys(file, "") == {"name": "a", "runs": [1, 2]}
