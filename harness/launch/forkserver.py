"""A process that has imported torch and one DeepSpeed overlay, and forks the ranks of run after run.

Importing torch, transformers and DeepSpeed costs seconds of CPU; a fork costs milliseconds. The local launcher starts
one such process per overlay and device and speaks JSON lines with it: {"start": DIR, "world": N, "port": P} and
{"kill": DIR} go in, {"ready": true} and {"run": DIR, "rank": R, "code": C, "signal": S} come out.
"""

from __future__ import annotations

import gc
import os
import select
import signal
import sys
from functools import partial
from pathlib import Path
from typing import Any

from harness.system.imports import explained_imports
from harness.system.parent import Parent, place_of


def main() -> None:
    """Serve until the launcher wants no more or is gone; the ranks then die with this process."""
    launcher = Parent()
    with explained_imports():
        from harness.device import cuda_was_started
        from harness.workload.train import import_everything

        import_everything(sys.argv[1])
    # Where an import has started CUDA, a fork could not use it; a fresh process imports all again and can.
    afresh = sys.argv[1] == "cuda" and cuda_was_started()
    gc.freeze()  # collections in the ranks then pass over what was imported, and leave its pages shared
    ended = wake_at_end_of_child()
    launcher.answer({"ready": True})
    ranks: dict[int, tuple[str, int]] = {}  # pid → (run directory, rank)
    heard: list[Parent | int] = [launcher, ended]
    while True:
        readable, _, _ = select.select(heard, [], [])
        if ended in readable:
            os.read(ended, 4096)
        if launcher in readable:
            if (commands := launcher.commands()) is None:
                break
            for command in commands:
                obey(command, ranks, launcher, afresh)
        reap(ranks, launcher)
    for pid in ranks:
        os.kill(pid, signal.SIGKILL)


def wake_at_end_of_child() -> int:
    """A file that can be read as soon as a child has ended, to hear of the first before others die of its absence."""
    readable, writable = os.pipe()
    os.set_blocking(writable, False)
    signal.set_wakeup_fd(writable, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    return readable


def obey(
    command: dict[str, Any], ranks: dict[int, tuple[str, int]], launcher: Parent, afresh: bool = False
) -> None:
    if "start" in command:
        directory = Path(command["start"])
        for rank in range(command["world"]):
            log = directory / "log" / f"rank-{rank}.txt"
            place = place_of(rank, command["world"], command["port"])
            pid = launcher.fork_rank(partial(train, directory, afresh), log, place)
            ranks[pid] = (command["start"], rank)
    elif "kill" in command:
        for pid, (started, _) in ranks.items():
            if started == command["kill"]:
                os.kill(pid, signal.SIGKILL)


def train(directory: Path, afresh: bool) -> None:
    """What a forked rank does; `afresh` starts a program of its own."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    if afresh:
        os.execv(sys.executable, [sys.executable, "-m", "harness.workload.train", str(directory)])
    from harness.workload.train import run_rank

    run_rank(directory)


def reap(ranks: dict[int, tuple[str, int]], launcher: Parent) -> None:
    while ranks:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return
        directory, rank = ranks.pop(pid)
        killed = signal.Signals(os.WTERMSIG(status)).name if os.WIFSIGNALED(status) else None
        code = os.WEXITSTATUS(status) if os.WIFEXITED(status) else None
        launcher.answer({"run": directory, "rank": rank, "code": code, "signal": killed})


if __name__ == "__main__":
    main()
