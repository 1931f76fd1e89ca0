"""A soak tells tests that do not pass every time from those that do, and leaves no process behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from harness.system.places import REPOSITORY
from tests.soak import busy, main, report

COIN = """
from pathlib import Path
def test_a_coin(): assert len(list(Path({folder!r}).glob("*.xml"))) != 1
def test_a_good_one(): pass
"""


def test_the_table_names_what_failed_and_how_often(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, folder = tmp_path / "test_coin.py", tmp_path / "soak"
    file.write_text(COIN.format(folder=str(folder)))
    assert main(["--rounds", "2", "--loops", "0", "--workers", "2", "--folder", str(folder), str(file)]) == 1
    said = capsys.readouterr().out.splitlines()
    assert said[-2] == "2 rounds were made; 1 tests did not pass every time"
    assert said[-1].startswith("   1 of 2  ")
    assert said[-1].endswith(f"test_coin::test_a_coin  {folder}/round-001.txt")
    assert main(["--resume", str(folder)]) == report(folder) == 1  # nothing is left to do


def test_a_round_without_result_is_a_failure(tmp_path: Path) -> None:
    assert report(tmp_path) == 1
    (tmp_path / "round-000.txt").write_text("Fatal Python error")
    assert report(tmp_path) == 1


def test_busy_processes_end_with_the_soak_however_it_ends() -> None:
    before = psutil.Process().children()
    with busy(2):
        processes = [child for child in psutil.Process().children() if child not in before]
        assert len(processes) == 2
    assert not any(process.is_running() for process in processes)
    program = "import time, tests.soak\nwith tests.soak.busy(1): print('busy', flush=True); time.sleep(600)"
    soak = subprocess.Popen(
        [sys.executable, "-c", program], cwd=REPOSITORY, stdout=subprocess.PIPE, env={**os.environ}
    )
    assert soak.stdout is not None and soak.stdout.readline() == b"busy\n"
    (loop,) = psutil.Process(soak.pid).children()
    soak.send_signal(signal.SIGKILL)
    soak.wait()
    loop.wait(60)
