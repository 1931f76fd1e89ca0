"""What happens inside the processes of a test: the virtual device under CUDA's names, watched, and ranks that follow.

The session's process opens the device and never works on it; each test runs in a process forked from it, and what that
one starts with multiprocessing, whatever the start method, is forked from it in turn and watched as a rank.
"""

from __future__ import annotations

import functools
import gc
import inspect
import json
import multiprocessing.context
import os
import signal
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing import util
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch
from _pytest.runner import runtestprotocol

from harness.device import Observer, OpRecord, VirtualDevice, open_device
from harness.race.adapt import adapt_deepspeed, adapt_torch
from harness.race.ends import meet_again, write_when_asked
from harness.race.job import Job, Program
from harness.race.policy import policy_of
from harness.race.rank import Watch, import_everything
from harness.race.watch import Watcher
from harness.system.parent import die_with
from harness.system.whole_file import write_text_whole

DEVICES = 8  # that a program finds, as on one machine: enough for whoever asks for several
WAIT = timedelta(seconds=60)  # of ranks for each other, until they are told that nobody comes


@dataclass
class Session:
    """The device of this process and of all that are forked from it, and the execution under way, if any."""

    device: VirtualDevice
    job: Job | None = None
    folder: Path = Path()


_session: Session | None = None


def open_session() -> Session:
    """Give this process the virtual device under CUDA's names; safe to repeat."""
    global _session
    if _session is None:
        os.environ.setdefault("LOCAL_SIZE", str(DEVICES))
        os.environ.setdefault("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(DEVICES))))
        import_everything(with_transformers=False, map_cuda=True)
        device = open_device("virtual")
        assert isinstance(device, VirtualDevice)
        adapt_deepspeed(device, Program(ranks=1, map_cuda=True))
        adapt_torch(device, mapped=True)
        for name in ("init_process_group", "new_group"):
            setattr(torch.distributed, name, _impatient(getattr(torch.distributed, name)))
        fork = multiprocessing.get_context("fork")
        # Whoever asks for another start method would get processes that know nothing of the device.
        multiprocessing.context._concrete_contexts |= {"spawn": fork, "forkserver": fork}  # type: ignore[attr-defined]
        _session = Session(device)
        util.register_after_fork(_session, follow)
        gc.collect()
        gc.freeze()  # what looks through all objects for names, in the tests, passes over what was imported so far
    return _session


def _impatient(original: Callable[..., Any]) -> Callable[..., Any]:
    """Groups whose ranks do not wait for each other for half an hour."""
    signature = inspect.signature(inspect.unwrap(original))

    @functools.wraps(original)
    def call(*args: Any, **kwargs: Any) -> Any:
        bound = signature.bind(*args, **kwargs)
        return original(*bound.args, **{**bound.kwargs, "timeout": WAIT})

    return call


class LearnsRank(Observer):
    """The rank of a process is known once it talks to others; else it is what the environment says in the end."""

    def __init__(self, watcher: Watcher) -> None:
        self.watcher = watcher
        self.rank: int | None = None

    def on_op(self, op: OpRecord) -> None:
        if op.collective is not None:
            self.rank = self.watcher.rank = torch.distributed.get_rank()


class ProcessWatch(Watch):
    """The observers of one process of a test, whose rank nobody says beforehand."""

    def __init__(self, job: Job, folder: Path) -> None:
        super().__init__(job, folder, 0, f"process-{os.getpid()}")
        self.learned = LearnsRank(self.watcher)

    def write(self, digest: str | None) -> None:
        learned = self.learned.rank
        self.rank = int(os.environ.get("RANK", "0")) if learned is None else learned
        super().write(digest)


def begin(session: Session) -> Watch:
    """Watch this process anew, whatever the one that it was forked from has seen."""
    assert session.job is not None
    watch = ProcessWatch(session.job, session.folder)
    session.device.machine.observers.clear()
    session.device.observe(watch.learned)
    watch.attach(session.device)
    write_when_asked(watch)
    return watch


def follow(session: Session) -> None:
    """A process was forked by multiprocessing: while a test runs, it is a rank."""
    if session.job is None:
        return
    die_with(os.getppid())
    watch = begin(session)

    def ended(*_: object) -> NoReturn:
        watch.write(None)
        os._exit(1)

    signal.signal(signal.SIGTERM, ended)  # as pools end their workers
    util.Finalize(None, watch.write, args=(None,), exitpriority=1)


def run_test(item: pytest.Item, job: Job, folder: Path, place: Mapping[str, str]) -> NoReturn:
    """Run a test in this process, which was forked for it; its reports are written to `folder`."""
    code = 1
    try:
        _redirect(item.config, folder / f"log-{os.getpid()}.txt")
        os.environ |= place
        session = open_session()
        session.job, session.folder = job, folder
        watch = begin(session)
        with session.device.activate():
            session.device.machine.use_policy(policy_of(job, watch.begin))
            reports = runtestprotocol(item, log=False, nextitem=None)
            session.device.synchronize()
        meet_again()
        watch.write(None)
        hook = item.config.hook
        told = [hook.pytest_report_to_serializable(config=item.config, report=report) for report in reports]
        write_text_whole(folder / f"reports-{os.getpid()}.json", json.dumps(told, default=str))
        code = 0
    except BaseException:
        write_text_whole(folder / f"failed-{os.getpid()}.txt", traceback.format_exc())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _redirect(config: Any, log: Path) -> None:
    """What is captured here is kept from what the session's process captures; without capturing all is shown."""
    capture = config.pluginmanager.getplugin("capturemanager")
    if capture is None or config.option.capture == "no":
        return
    capture.stop_global_capturing()
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    capture.start_global_capturing()
    capture.suspend_global_capture(in_=True)
