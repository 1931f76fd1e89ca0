"""A file is written whole or not at all, and a disk that cannot take it is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.system.errors import HarnessError
from harness.system.whole_file import write_text_whole, write_whole


def test_a_failed_write_leaves_the_old_file_and_nothing_beside(tmp_path: Path) -> None:
    file = write_text_whole(tmp_path / "report.md", "old")

    def fill_the_disk(beside: Path) -> None:
        beside.write_text("ne")
        raise OSError(28, "No space left on device")

    with pytest.raises(
        HarnessError, match=r"report.md: cannot be written \(No space left on device\); free space"
    ):
        write_whole(file, fill_the_disk)
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]
