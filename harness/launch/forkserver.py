"""A process that has imported torch and one DeepSpeed overlay, and forks the ranks of run after run.

Importing torch, transformers and DeepSpeed costs seconds of CPU; a fork costs milliseconds. The local launcher starts
one such process per overlay and device and speaks JSON lines with it: {"start": DIR, "world": N, "port": P} and
{"kill": DIR} go in, {"ready": true} and {"run": DIR, "rank": R, "code": C, "signal": S} come out.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import select
import signal
import sys
import traceback
from pathlib import Path
from typing import Any

PR_SET_PDEATHSIG = 1


def main() -> None:
    """Serve until standard input closes; the ranks then die with this process."""
    from harness.device import cuda_was_started
    from harness.workload.train import import_everything

    import_everything(sys.argv[1])
    # Where an import has started CUDA, a fork could not use it; a fresh process imports all again and can.
    afresh = sys.argv[1] == "cuda" and cuda_was_started()
    gc.freeze()  # collections in the ranks then pass over what was imported, and leave its pages shared
    ended = wake_at_end_of_child()
    answer({"ready": True})
    ranks: dict[int, tuple[str, int]] = {}  # pid → (run directory, rank)
    unread = b""
    while True:
        readable, _, _ = select.select([0, ended], [], [])
        if ended in readable:
            os.read(ended, 4096)
        if 0 in readable:
            chunk = os.read(0, 65536)
            if not chunk:
                break
            *lines, unread = (unread + chunk).split(b"\n")
            for line in lines:
                obey(json.loads(line), ranks, afresh)
        reap(ranks)
    for pid in ranks:
        os.kill(pid, signal.SIGKILL)


def wake_at_end_of_child() -> int:
    """A file that can be read as soon as a child has ended, to hear of the first before others die of its absence."""
    readable, writable = os.pipe()
    os.set_blocking(writable, False)
    signal.set_wakeup_fd(writable, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    return readable


def obey(command: dict[str, Any], ranks: dict[int, tuple[str, int]], afresh: bool = False) -> None:
    if "start" in command:
        for rank in range(command["world"]):
            pid = os.fork()
            if pid == 0:
                be_rank(command, rank, afresh)
            ranks[pid] = (command["start"], rank)
    elif "kill" in command:
        for pid, (directory, _) in ranks.items():
            if directory == command["kill"]:
                os.kill(pid, signal.SIGKILL)


def be_rank(command: dict[str, Any], rank: int, afresh: bool) -> None:
    """The child: becomes one rank, logs to its own file and never returns. `afresh` starts a program of its own."""
    code = 1
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        # A rank must not outlive the server, however the server ends.
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        directory = Path(command["start"])
        log = os.open(directory / "log" / f"rank-{rank}.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for descriptor, target in ((os.open(os.devnull, os.O_RDONLY), 0), (log, 1), (log, 2)):
            os.dup2(descriptor, target)
        world = command["world"]
        os.environ |= {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(world),
            "LOCAL_SIZE": str(world),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(command["port"]),
        }
        if afresh:
            os.execv(sys.executable, [sys.executable, "-m", "harness.workload.train", str(directory)])
        from harness.workload.train import run_rank

        run_rank(directory)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        # Skips interpreter teardown, where gloo's threads may abort a process whose work is complete.
        os._exit(code)


def reap(ranks: dict[int, tuple[str, int]]) -> None:
    while ranks:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return
        directory, rank = ranks.pop(pid)
        killed = signal.Signals(os.WTERMSIG(status)).name if os.WIFSIGNALED(status) else None
        code = os.WEXITSTATUS(status) if os.WIFEXITED(status) else None
        answer({"run": directory, "rank": rank, "code": code, "signal": killed})


def answer(message: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
