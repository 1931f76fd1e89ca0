"""How an array task has its runs mirrored to wandb: live beside the ranks, and once more at its end.

In processes of their own, with a time of their own: whatever becomes of them harms no run.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec

from harness.launch.slurm.srun import Stop
from harness.record import RunDirectory

LIVE_SECONDS = 60.0  # for the rest of what is told live
MIRROR_SECONDS = 300.0


@contextmanager
def mirrored_live(runs: Sequence[RunDirectory], mode: str, stop: Stop) -> Iterator[None]:
    """Inside, a process beside the ranks tells wandb of their steps."""
    process = _start("harness.record.live", runs, mode, subprocess.PIPE)
    try:
        yield
    finally:
        if process is not None:
            assert process.stdin is not None
            process.stdin.close()  # it tells the rest and ends
            _end(process, LIVE_SECONDS, stop)


def mirror(runs: Sequence[RunDirectory], mode: str, stop: Stop) -> None:
    """Tell wandb what was not told live."""
    process = _start("harness.record.mirror", runs, mode, subprocess.DEVNULL)
    if process is not None and _end(process, MIRROR_SECONDS, stop):
        print("hpz: the runs were not all mirrored to wandb; hpz wandb does it later", file=sys.stderr)


def _start(
    module: str, runs: Sequence[RunDirectory], mode: str, stdin: int
) -> subprocess.Popen[bytes] | None:
    """None where nothing is to be mirrored."""
    if mode not in ("offline", "online") or find_spec("wandb") is None:
        return None
    command = [sys.executable, "-m", module, mode, *(str(directory.path) for directory in runs)]
    return subprocess.Popen(command, stdin=stdin, start_new_session=True)


def _end(process: subprocess.Popen[bytes], seconds: float, stop: Stop) -> int:
    """Wait for it as long, less where SLURM ends the job, and end it; its exit code."""
    deadline = time.monotonic() + seconds
    while process.poll() is None and not stop.ending and time.monotonic() < deadline:
        time.sleep(0.1)
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    return process.wait()
