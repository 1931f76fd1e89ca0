"""A script that starts its ranks itself, by `torch.multiprocessing`: each rank of the analysis becomes one of them.

Every rank runs the whole script. Where that starts a process that is to be rank N, our rank N calls its function in the
same place, and the others pass over it. They meet where our ranks do, whatever address of this machine is named.
"""

from __future__ import annotations

import functools
import inspect
import multiprocessing.process
import os
import site
import sysconfig
from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch

from harness.device import Unmapped
from harness.device.torch_private import rendezvous_store

LIBRARIES = (*site.getsitepackages(), sysconfig.get_path("stdlib"), sysconfig.get_path("purelib"))
GROUPS = ("init_process_group", "init_distributed", "init_device_mesh")
PATIENCE = timedelta(days=1)  # who waits in vain is found by the process that started the ranks
INIT = inspect.signature(torch.distributed.init_process_group)


class OwnRanks:
    """What the script of this process has started of `ranks` ranks, and where they meet."""

    def __init__(self, ranks: int) -> None:
        self.ranks = ranks
        self.rank = int(os.environ["RANK"])
        self.place = {name: os.environ[name] for name in ("MASTER_ADDR", "MASTER_PORT")}
        self.started: set[int] = set()
        self.store: Any = None  # of the first process group; it stays, so that later ones meet there, too
        self.met = self.joined = 0

    def follow(self) -> None:
        """Fit torch's ways to start ranks, and to meet, to the ranks that run already."""
        torch.multiprocessing.spawn = self.spawn  # type: ignore[attr-defined]
        torch.multiprocessing.start_processes = self.spawn  # type: ignore[attr-defined]
        start, initialise = multiprocessing.process.BaseProcess.start, torch.distributed.init_process_group

        def start_rank(process: Any) -> None:
            rank = _rank_of(process)
            if rank is None:
                start(process)
                return
            process._popen = _Ended()
            if self.is_here((rank,)):
                process.run()

        multiprocessing.process.BaseProcess.start = start_rank  # type: ignore[method-assign,assignment]
        torch.distributed.init_process_group = functools.partial(self.meet, initialise)

    def too_few(self) -> str | None:
        """What to do where the script starts fewer ranks than are analysed; None where it starts none or all."""
        number = len(self.started)
        return (
            f"it starts {number} of {self.ranks} ranks; give --ranks {number}"
            if 0 < number < self.ranks
            else None
        )

    def is_here(self, started: Iterable[int]) -> bool:
        """Whether this rank is one of those that the script starts. Raises Unmapped where it starts too many."""
        self.started.update(started)
        if (number := max(self.started) + 1) > self.ranks:
            raise Unmapped(f"starts {number} ranks, and --ranks is {self.ranks}; give --ranks {number}")
        return self.rank in started

    def spawn(
        self,
        fn: Callable[..., Any],
        args: Sequence[Any] = (),
        nprocs: int = 1,
        join: bool = True,
        *_: Any,
        **__: Any,
    ) -> _Ended | None:
        """As `torch.multiprocessing.spawn`; what comes after it finds what every rank has done."""
        if self.is_here(range(nprocs)):
            fn(self.rank, *args)
            self.join(nprocs)
        return None if join else _Ended()

    def join(self, number: int) -> None:
        """Wait until so many ranks are here, where they have met before; rank 0, which keeps the place, goes last."""
        if self.store is None:
            return
        self.joined += 1
        self._arrive(f"joined {self.joined}", number, wait=True)
        self._arrive(f"left {self.joined}", number, wait=self.rank == 0)

    def _arrive(self, where: str, number: int, wait: bool) -> None:
        """Be one of `number` ranks somewhere; the last to come lets those go on that wait."""
        if self.store.add(where, 1) == number:
            self.store.set(f"{where}: all", b"yes")
        elif wait:
            self.store.wait([f"{where}: all"], PATIENCE)

    def meet(self, initialise: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        """As `init_process_group`, at the port that is held for the ranks; again and again, where groups were
        destroyed."""
        given = INIT.bind(*args, **kwargs).arguments
        method = str(given.get("init_method") or "env://")
        if given.get("store") is None and method.startswith(("env://", "tcp://")):
            given.pop("init_method", None)
            os.environ |= self.place
            if self.store is not None:
                self.met += 1
                for name, variable in (("rank", "RANK"), ("world_size", "WORLD_SIZE")):
                    given[name] = given[name] if given.get(name, -1) >= 0 else int(os.environ[variable])
                prefix = f"meeting {self.met}"
                given["store"] = torch.distributed.PrefixStore(prefix, self.store)  # type: ignore[attr-defined]
        initialise(**given)
        self.store = self.store or rendezvous_store()


def _rank_of(process: Any) -> int | None:
    """The rank that a process of a script is to be: the first of its function's arguments, or `rank`.

    None for other processes: those of a library that load data, readers with a queue, workers that join no group.
    """
    function: Any = process._target
    args, named = process._args, process._kwargs
    if isinstance(function, functools.partial):
        function, args = function.func, (*function.args, *args)
    rank = named.get("rank", args[0] if args else None)
    if type(rank) is not int or torch.distributed.is_initialized() or not _joins_a_group(function):
        return None
    return rank


def _joins_a_group(function: Any) -> bool:
    """Whether a program's own function stands in a file that makes process groups."""
    code = getattr(inspect.unwrap(function), "__code__", None) if callable(function) else None
    if code is None or code.co_filename.startswith(LIBRARIES) or not Path(code.co_filename).is_file():
        return False
    return any(name in Path(code.co_filename).read_text(errors="replace") for name in GROUPS)


class _Ended:
    """A process that has ended well, as `multiprocessing` and `torch.multiprocessing` look at one."""

    returncode = 0
    sentinel = -1

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.processes: list[Any] = []

    def poll(self, *_: Any) -> int:
        return 0

    def wait(self, *_: Any) -> int:
        return 0

    def join(self, *_: Any, **__: Any) -> bool:
        return True

    def pids(self) -> list[int]:
        return [self.pid]

    def terminate(self) -> None:
        """It has ended."""

    kill = close = terminate
