"""Runs a study on this machine: several runs side by side, each as a group of ranks forked from a warm process.

Finished runs are never done again, so a study that was killed at any moment goes on where it stood.
"""

from __future__ import annotations

import fcntl
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from harness.launch.gpu import check_gpus
from harness.launch.launcher import Launcher, Progress, Watcher
from harness.record import RunDirectory, Status
from harness.study import Study, check_attention, check_corpus, check_weights, make_results_folder
from harness.system.errors import HarnessError
from harness.system.utc import utc_now


def check_machine(study: Study, witness: str | None = None) -> None:
    """Refuse a study that this machine cannot run, before anything is started or written. Raises HarnessError."""
    if witness not in (None, "sanitizer", "profile"):
        raise HarnessError(f"--witness: {witness!r} is not known; use sanitizer or profile")
    if witness == "sanitizer" and any(run.device != "cuda" for run in study.runs):
        raise HarnessError("--witness sanitizer: it watches CUDA streams, so every run needs device: cuda")
    if any(run.link for run in study.runs):
        raise HarnessError(
            "matrix.link: links have a rate only between the nodes of a cluster; start one with `hpz cluster up` and "
            "use hpz submit --cluster slurm/clusters/one-machine.yaml"
        )
    check_weights(study)
    check_corpus(study)
    check_gpus(study.runs, gpu=study.gpu)
    for run in study.runs:
        check_attention(run.training)


def run_study(
    study: Study, results: Path, watch: Watcher = lambda progress: None, witness: str | None = None
) -> list[Status]:
    """Launch every run of `study` that has no final record under `results`; returns all statuses in study order.

    `witness` (sanitizer or profile) watches every rank, see harness.device.witness.

    Raises KeyboardInterrupt after the ranks are down and the runs marked as interrupted, and RunFailed where the
    process that starts ranks is lost.
    """
    check_machine(study)
    directories = {run.run_id: RunDirectory(results / "runs" / run.run_id) for run in study.runs}
    todo = []
    for run in study.runs:
        status = settled(directories[run.run_id])
        if status.state == "done":
            watch(Progress("skipped", run, status))
        else:
            directories[run.run_id].create(run)
            todo.append(run)
    if todo:
        with fail_on_overfull_disk(results), Launcher(study, directories, watch, witness) as launcher:
            launcher.launch(todo)
    return [directories[run.run_id].status() for run in study.runs]


def settled(directory: RunDirectory) -> Status:
    """The status of a run that nobody runs; one whose launcher was killed after the final record is done."""
    status = directory.status()
    if status.final is not None and status.state in ("running", "interrupted"):
        return directory.update_status(state="done", reason=None, ended_utc=status.ended_utc or utc_now())
    return status


@contextmanager
def sole_launcher(results: Path) -> Iterator[None]:
    """Keeps a results folder for this process, however it ends. Raises HarnessError where another one has it."""
    make_results_folder(results)
    with (results / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise HarnessError(
                f"{results}: another hpz run is at work there; wait for it, or give another folder with --results"
            ) from error
        yield


@contextmanager
def fail_on_overfull_disk(results: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (28, 122):  # no space left, quota exceeded
            raise HarnessError(
                f"{results}: {error.strerror}; free space and run again, finished runs are kept"
            ) from error
        raise


def terminate_on_sigterm() -> None:
    """Let SIGTERM end a study as Ctrl-C does: ranks down, runs marked as interrupted."""
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
