"""One run at Weights & Biases while it is told there, and how far it was told.

A run has one offline store with every step once, begun anew where there is more to tell, since several of one run
overwrite each other when they are synced (wandb #3841). wandb's own step is the count of samples, as DeepSpeed's
monitor has it, so that its metrics of a user's run lie over ours; charts of our names go by `step`.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from harness.record.directory import RunDirectory, Status
from harness.record.metrics import AXES, config_of, told_steps
from harness.system.whole_file import write_json

Mode = Literal["offline", "online"]
PROJECT = "hpz-lab"
FAILED = ("failed", "timed-out", "node-failed", "out-of-memory")  # that wandb, too, should call so


@dataclass(frozen=True)
class Pushed:
    """How far a run was pushed in one mode, its state, and a hash of what a report said of it.

    What went offline has still to go online.
    """

    last_step: int = -1
    state: str | None = None
    judged: str | None = None


class Session:
    """A run at wandb while it is being told: in its one offline store, begun anew, or on the server, gone on with."""

    def __init__(self, directory: RunDirectory, mode: Mode, judged: Mapping[str, Any] | None = None) -> None:
        self.directory, self.mode, self.judged = directory, mode, judged
        self.run = run = directory.run()
        self.last_step = pushed(directory).get(mode, Pushed()).last_step if mode == "online" else -1
        self._wandb = open_run(
            directory.path,
            mode,
            run_id=run.run_id,
            group=run.study,
            job_type=run.variant,
            tags=[run.variant, run.evidence],
            config=config_of(run),
        )
        for axis in AXES:
            self._wandb.define_metric(axis)
        self._wandb.define_metric("*", step_metric="step")
        for names in ("train/*", "eval/*"):
            self._wandb.define_metric(names, step_metric="train/global_step")
        self._wandb.define_metric("Train/Samples/*", step_metric="samples")

    def log(self, lines: Sequence[Mapping[str, Any]]) -> list[int]:
        """Tell the steps that were not told yet, given the lines of all; returns which they were."""
        new = []
        for told in told_steps(lines, self.run, self.last_step):
            when = {"_timestamp": told.when} if told.when else {}  # of the training, not of this push
            self._wandb.log(told.values | when, step=told.values["samples"])
            self.last_step = told.step
            new.append(told.step)
        return new

    def finish(self) -> None:
        """Tell how the run stands, close the store, and write down how far it was told."""
        status, before = self.directory.status(), pushed(self.directory)
        self._wandb.summary.update(_summary(status) | dict(self.judged or {}))
        self._wandb.finish(exit_code=int(status.state in FAILED))
        verdict = digest(self.judged) if self.judged else None
        told = before | {self.mode: Pushed(self.last_step, status.state, verdict)}
        write_json(_pushed_file(self.directory), {name: vars(one) for name, one in told.items()})


def open_run(
    folder: Path,
    mode: Mode,
    *,
    run_id: str,
    group: str,
    job_type: str,
    tags: Sequence[str],
    config: Mapping[str, Any],
) -> Any:
    """A run at wandb: a new offline store in place of those in `folder`/wandb, or gone on with at the server."""
    import wandb

    if mode == "offline":
        for store in folder.glob("wandb/offline-run-*"):
            shutil.rmtree(store)
    settings = wandb.Settings(
        mode=mode,
        silent=True,
        console="off",
        x_disable_stats=True,
        x_disable_meta=True,
        x_disable_machine_info=True,
        x_sync_dir_suffix=str(time.time_ns()),  # stores are named by the second, which two pushes may share
    )
    return wandb.init(
        id=run_id,
        name=run_id,
        project=project(),
        group=group,
        job_type=job_type,
        tags=list(tags),
        config=dict(config),
        dir=folder,
        resume="allow" if mode == "online" else None,  # a requeued run goes on under its id
        reinit="create_new",  # several runs are told at once
        settings=settings,
    )


def use_own_service() -> None:
    """Let wandb start a process of its own for us: one that others started would keep our runs if we were killed."""
    os.environ.pop("WANDB_SERVICE", None)


def project() -> str:
    """The project at wandb that runs belong to."""
    return os.environ.get("WANDB_PROJECT", PROJECT)


def digest(content: Any) -> str:
    """A short hash that tells whether something is still what was told."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def _summary(status: Status) -> dict[str, Any]:
    final = status.final.model_dump() if status.final else {}
    return {"state": status.state, "attempts": status.attempts, **final}


def _pushed_file(directory: RunDirectory) -> Path:
    return directory.path / "wandb.json"


def pushed(directory: RunDirectory) -> dict[str, Pushed]:
    """By mode; empty where nothing was pushed."""
    try:
        content = json.loads(_pushed_file(directory).read_text())
        return {mode: Pushed(**told) for mode, told in content.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}
