"""How a rank ends: with its record written, whether it comes to its end, leaves at once or is to be killed."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NoReturn

import torch

from harness.device.torch_private import below_dispatch
from harness.system.errors import HarnessError

if TYPE_CHECKING:
    from harness.race.rank import Watch

EXIT = os._exit


@contextlib.contextmanager
def ends_written(watch: Watch, final: Callable[[], str]) -> Iterator[None]:
    """Inside, a script that ends its process by os._exit has its record written; with code 0 it has come to its end."""
    own = os.getpid()

    def leave_at_once(status: int) -> None:
        if os.getpid() == own:  # and not a process that the script has forked
            digest = None
            try:
                digest = final() if status == 0 else None
            except HarnessError as error:
                watch.refuse(error)
            finally:
                watch.write(digest)
        leave(status)

    os._exit = leave_at_once  # type: ignore[assignment]
    try:
        yield
    finally:
        os._exit = EXIT


def meet_again() -> None:
    """Ranks that end together do not cut each other's last messages off."""
    if torch.distributed.is_initialized():
        with contextlib.suppress(RuntimeError), below_dispatch():
            torch.distributed.barrier()


def leave(status: int = 0) -> NoReturn:
    """End this process, without what its script has planned for its own end."""
    sys.stdout.flush()
    sys.stderr.flush()
    EXIT(status)


def write_when_asked(watch: Watch) -> None:
    """A thread that writes what was analysed so far on SIGUSR1, which comes before a rank is killed.

    A signal handler would wait for the interpreter, which may be waiting for another rank.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})

    def wait() -> None:
        signal.pthread_sigmask(
            signal.SIG_BLOCK, {signal.SIGUSR2}
        )  # which asks the main thread where it stands
        signal.sigwait({signal.SIGUSR1})
        for _ in range(100):  # what it reads goes on changing under it
            with contextlib.suppress(RuntimeError):
                watch.write(None)
                return

    threading.Thread(target=wait, daemon=True, name="hpz last words").start()
