"""What the pages tell a reader to do is done, block by block, and prints what the pages say."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from harness.system.places import REPOSITORY
from tests.blocks import PAGES, Block, blocks, matches

RUN = [page for page in PAGES if any(block.is_run for block in blocks(page))]
LENT = ("experiments", "slurm", "patches")  # what a reader finds in the clone


@pytest.mark.slow
@pytest.mark.timeout(900)  # a page may start ranks four times
@pytest.mark.parametrize("page", RUN, ids=lambda page: page.relative_to(REPOSITORY).as_posix())
def test_every_block_of_a_page_does_what_it_says(page: Path, tmp_path: Path) -> None:
    for name in LENT:
        (tmp_path / name).symlink_to(REPOSITORY / name)
    printed: str | None = None
    for block in blocks(page):
        if block.title is not None:
            _save(block, tmp_path)
        elif block.is_run:
            printed = _run(block, tmp_path)
        elif block.language == "text" and printed is not None:
            assert matches(block.text, printed), f"{block.where} shows another text than\n{printed}"
            printed = None


def _save(block: Block, folder: Path) -> None:
    assert block.title is not None
    if block.language != "diff":
        (folder / block.title).write_text(block.text)
        return
    words = ["patch", "--no-backup-if-mismatch", "--fuzz=0", block.title]
    done = subprocess.run(words, cwd=folder, input=block.text, text=True, capture_output=True)
    assert done.returncode == 0, f"{block.where}: {done.stdout}{done.stderr}"


def _run(block: Block, folder: Path) -> str:
    """What a block prints, with the files of its folder named as the reader sees them."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    bash = shutil.which("bash")
    assert bash is not None
    done = subprocess.run(
        [bash, "-euo", "pipefail", "-c", block.text],
        cwd=folder,
        env={**os.environ, "PATH": path, "COLUMNS": "120"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, f"{block.where}: {done.stdout}{done.stderr}"
    return done.stdout
