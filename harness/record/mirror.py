"""Mirrors runs to Weights & Biases under their run ids, always from the local files, never from inside a training.

Local files are the truth: a mirror that fails harms nothing. Offline is the default; WANDB_MODE=online (or `hpz wandb
--online`) with a configured account sends what is new to the server. On SLURM each array task mirrors its runs while
they train (harness.record.live), and once more when it ends: `python -m harness.record.mirror MODE RUN_DIRECTORY…`.
"""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from harness.record.directory import RunDirectory
from harness.record.metrics import read_lines
from harness.record.session import Mode, Pushed, Session, digest, pushed, use_own_service
from harness.system.errors import HarnessError
from harness.system.parent import die_with

PUSHERS = os.cpu_count() or 1
LOCK_SECONDS = 2.0  # that a push waits for another one of its run; a live mirror holds on to its task's end
Judged = Mapping[str, Mapping[str, Any]]  # by run id: what a report found of a run


@dataclass(frozen=True)
class Mirrored:
    """What one push did: new steps sent, the last step sent so far, and why it failed if it did.

    A `busy` one is left to another process, which mirrors the run now.
    """

    run_id: str
    new_steps: int
    last_step: int
    error: str | None = None
    busy: bool = False


def default_mode() -> Mode:
    """Online only where the user's environment says so."""
    return "online" if os.environ.get("WANDB_MODE") == "online" else "offline"


def check_wandb(mode: Mode) -> None:
    """Make ready for wandb. Raises HarnessError where it is not installed, or is to be sent to without an account."""
    use_own_service()
    if find_spec("wandb") is None:
        raise HarnessError("wandb is not installed here; pip install wandb, then repeat")
    if mode == "offline":
        return
    import wandb

    os.environ["WANDB_MODE"] = mode  # over what the environment says, here and in the processes that push
    try:
        known = wandb.login(prompt=False)
    except Exception as error:
        raise HarnessError(f"the server of wandb does not let us in: {error}") from error
    if not known:
        raise HarnessError(
            "no account of wandb is known on this machine; run `wandb login` once, or set WANDB_API_KEY, and repeat. "
            "Without one, the offline store (no --online) and `hpz dashboard` need nothing"
        )


def mirror_study(
    results: Path,
    mode: Mode,
    jobs: int = PUSHERS,
    judged: Judged | None = None,
    watch: Callable[[int, int], None] | None = None,
) -> list[Mirrored]:
    """Push every run under `results`, several at a time; `watch` hears how many of how many are done.

    Runs that were pushed before and have nothing new are passed over, so a push that was stopped goes on where it
    stood. Raises HarnessError where there are no runs.
    """
    folders = sorted(path.parent for path in results.glob("runs/*/run.json"))
    if not folders:
        raise HarnessError(f"{results}: holds no runs; give a study that ran, or its results folder")
    found = judged or {}
    done = []
    with _pushers(min(jobs, len(folders))) as pool:
        pushes = [pool.submit(mirror_run, folder, mode, found.get(folder.name)) for folder in folders]
        for push in as_completed(pushes):
            done.append(push.result())
            if watch:
                watch(len(done), len(folders))
    return sorted(done, key=lambda one: one.run_id)


@contextmanager
def _pushers(count: int) -> Iterator[ProcessPoolExecutor]:
    """Processes, since the client keeps threads, that end with this block: where it is interrupted, at once."""
    before = set(multiprocessing.active_children())
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(count, context, initializer=_start_pusher, initargs=(os.getpid(),))
    try:
        yield pool
    except BaseException:
        for child in set(multiprocessing.active_children()) - before:
            child.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _start_pusher(parent: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the command, which ends this process
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    die_with(parent)
    use_own_service()


def mirror_run(folder: Path, mode: Mode, judged: Mapping[str, Any] | None = None) -> Mirrored:
    """Push the steps of one run that were not pushed before; whatever goes wrong is returned, not raised."""
    directory, last = RunDirectory(folder), -1
    try:
        with sole_pusher(directory.path, LOCK_SECONDS):
            last = pushed(directory).get(mode, Pushed()).last_step
            return _push(directory, mode, last, judged)
    except BlockingIOError:
        return Mirrored(folder.name, 0, last, busy=True)
    except Exception as error:
        return Mirrored(folder.name, 0, last, f"{type(error).__name__}: {error}")


@contextmanager
def sole_pusher(folder: Path, seconds: float) -> Iterator[None]:
    """Two at once, a job that ends and `hpz wandb`, would push everything twice.

    Raises BlockingIOError where another one holds on for longer than `seconds`.
    """
    deadline = time.monotonic() + seconds
    with (folder / ".wandb.lock").open("w") as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)
        yield


def _push(directory: RunDirectory, mode: Mode, last: int, judged: Mapping[str, Any] | None) -> Mirrored:
    lines = list(read_lines(directory.steps_file))
    newest = max((line["step"] for line in lines), default=-1)
    before, state = pushed(directory).get(mode, Pushed()), directory.status().state
    verdict = digest(judged) if judged else before.judged
    waits = not lines and state == "pending"  # in a queue: there is nothing to tell
    if waits or Pushed(newest, state, verdict) == before:
        return Mirrored(directory.path.name, 0, last)
    session = Session(directory, mode, judged)
    new = session.log(lines)
    session.finish()
    return Mirrored(directory.path.name, sum(step > last for step in new), newest)


def main(words: Sequence[str]) -> int:
    """Mirror some runs, one after the other; the exit code tells whether all went well."""
    use_own_service()
    mode: Mode = "online" if words[0] == "online" else "offline"
    failed = [done for folder in words[1:] if (done := mirror_run(Path(folder), mode)).error]
    for one in failed:
        print(f"hpz: {one.run_id} was not mirrored: {one.error}", file=sys.stderr)
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
