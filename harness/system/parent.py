"""The child's side of harness.system.child: answers its parent, forks ranks, and ends quietly once the parent is gone.

Nothing outlives the process that started it: ranks die with the server that forked them, the server with its parent.
"""

from __future__ import annotations

import ctypes
import io
import json
import os
import select
import signal
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from harness.system.secrets import veil_output

PR_SET_PDEATHSIG = 1


class Parent:
    """Standard input and output as the way to the parent, kept from whatever else prints there.

    One for a process; from then on its standard output is its standard error.
    """

    def __init__(self) -> None:
        self.answers = os.dup(1)
        os.dup2(2, 1)  # older releases of DeepSpeed log to standard output as they are imported
        print_in_order()
        veil_output()  # before anything is imported that may keep the streams, and for the ranks that are forked
        self._unread = b""

    def fileno(self) -> int:
        """What can be read once `commands` need not wait."""
        return 0

    def answer(self, message: Mapping[str, Any]) -> None:
        """Tell the parent. Where it is gone nobody is left to tell, and this process ends with all its ranks."""
        unsent = json.dumps(message).encode() + b"\n"
        try:
            while unsent:
                unsent = unsent[os.write(self.answers, unsent) :]
        except BrokenPipeError:
            os._exit(0)

    def commands(self) -> list[dict[str, Any]] | None:
        """What the parent has asked for since; waits until it asks or, None, until it is gone or has no more to ask."""
        chunk = os.read(0, 65536)
        if not chunk:
            return None
        *lines, self._unread = (self._unread + chunk).split(b"\n")
        return [json.loads(line) for line in lines]

    def speaks_within(self, seconds: float) -> bool:
        """Wait for as long at most; whether there is something to read: a command, or that the parent is gone."""
        return bool(select.select([self], [], [], seconds)[0])

    def fork_rank(self, work: Callable[[], None], log: Path, place: Mapping[str, str]) -> int:
        """Fork a rank that logs to its own file, knows its place, and ends with its work; returns its process id."""
        server = os.getpid()
        pid = os.fork()
        if pid == 0:
            _be_rank(self, server, work, log, place)
        return pid


def place_of(rank: int, ranks: int, port: int) -> dict[str, str]:
    """A rank's place on this machine, in the words that torch and DeepSpeed read."""
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(ranks),
        "LOCAL_SIZE": str(ranks),
        "LOCAL_WORLD_SIZE": str(ranks),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }


def _be_rank(
    parent: Parent, server: int, work: Callable[[], None], log: Path, place: Mapping[str, str]
) -> None:
    """The fork: never returns."""
    code = 1
    try:
        die_with(server)
        os.close(parent.answers)  # else a process that this rank starts could keep the parent waiting
        file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for descriptor, target in ((os.open(os.devnull, os.O_RDONLY), 0), (file, 1), (file, 2)):
            os.dup2(descriptor, target)
        os.environ |= place
        work()
        code = 0
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        if isinstance(stop.code, str):
            print(stop.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)  # skips teardown, where gloo's threads may abort a process whose work is complete


def print_in_order() -> None:
    """What goes to one file has prints and errors in the order in which they were made, to the last line of it.

    Python holds prints to a file back (PYTHONUNBUFFERED apart), so that an error would come before, or they be lost.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)


def die_with(process: int) -> None:
    """Let the kernel kill this process as soon as `process`, which started it, has ended, however that ends."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != process:  # it has ended before the line above
        os._exit(1)
