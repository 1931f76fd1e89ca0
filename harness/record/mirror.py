"""Mirrors runs to Weights & Biases under their run ids, always from the local files, never from inside a training.

Local files are the truth: a mirror that fails harms nothing, and pushing again sends only what is new. Offline is the
default; WANDB_MODE=online (or `hpz wandb --online`) with a configured account sends to the server. On SLURM each array
task mirrors its runs when it ends: `python -m harness.record.mirror MODE RUN_DIRECTORY…`.
"""

from __future__ import annotations

import fcntl
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from harness.budget import model_flops_per_token, model_of
from harness.record.directory import RunDirectory, Status
from harness.study import Run
from harness.system.errors import HarnessError
from harness.system.whole_file import write_json

Mode = Literal["offline", "online"]
PROJECT = "hpz-lab"
NOT_LOGGED = {"schema", "step", "nonfinite", "utc"}


@dataclass(frozen=True)
class Mirrored:
    """What one push did: new steps sent, the last step sent so far, and why it failed if it did."""

    run_id: str
    new_steps: int
    last_step: int
    error: str | None = None


@dataclass(frozen=True)
class Pushed:
    """How far a run was pushed in one mode, and the state that it was in; what went offline has still to go online."""

    last_step: int = -1
    state: str | None = None


def default_mode() -> Mode:
    """Online only where the user's environment says so."""
    return "online" if os.environ.get("WANDB_MODE") == "online" else "offline"


def mirror_study(results: Path, mode: Mode, jobs: int = 4) -> list[Mirrored]:
    """Push every run under `results`, several at a time. Raises HarnessError where there are no runs."""
    folders = sorted(path.parent for path in results.glob("runs/*/run.json"))
    if not folders:
        raise HarnessError(f"{results}: holds no runs; give a study that ran, or its results folder")
    # Spawned, since the client keeps threads; one process a push, so that one failure stays alone.
    with ProcessPoolExecutor(min(jobs, len(folders)), multiprocessing.get_context("spawn")) as pool:
        return list(pool.map(mirror_run, folders, [mode] * len(folders)))


def mirror_run(folder: Path, mode: Mode) -> Mirrored:
    """Push the steps of one run that were not pushed before; whatever goes wrong is returned, not raised."""
    directory, last = RunDirectory(folder), -1
    try:
        with _sole_pusher(directory):
            last = _pushed(directory).get(mode, Pushed()).last_step
            return _push(directory, mode, last)
    except Exception as error:
        return Mirrored(folder.name, 0, last, f"{type(error).__name__}: {error}")


@contextmanager
def _sole_pusher(directory: RunDirectory) -> Iterator[None]:
    """Two at once, a job that ends and `hpz wandb`, would push everything twice."""
    with (directory.path / ".wandb.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _push(directory: RunDirectory, mode: Mode, last: int) -> Mirrored:
    run, status = directory.run(), directory.status()
    lines = [line for line in _lines(directory.steps_file) if line["step"] > last]
    now = Pushed(lines[-1]["step"] if lines else last, status.state)
    before = _pushed(directory)
    if now == before.get(mode):
        return Mirrored(run.run_id, 0, last)
    session = _open(directory, run, mode)
    for line in lines:
        values = {key: value for key, value in line.items() if key not in NOT_LOGGED}
        session.log(values | step_rates(run, line) | _nonfinite(line), step=line["step"])
    session.summary.update(_summary(status))
    session.finish()
    after = {**before, mode: now}
    write_json(_pushed_file(directory), {name: vars(pushed) for name, pushed in after.items()})
    return Mirrored(run.run_id, len(lines), now.last_step)


def _open(directory: RunDirectory, run: Run, mode: Mode) -> Any:
    import wandb

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
        id=run.run_id,
        name=run.run_id,
        project=os.environ.get("WANDB_PROJECT", PROJECT),
        group=run.study,
        tags=[run.variant, run.evidence],
        config=run.model_dump(mode="json"),
        dir=directory.path,
        resume="allow",  # a resumed or requeued run continues under its id
        settings=settings,
    )


def _lines(file: Path) -> Iterator[dict[str, Any]]:
    """Whole lines only: the last one may still be written."""
    for text in file.read_text().splitlines() if file.exists() else []:
        try:
            yield json.loads(text)
        except ValueError:
            return


def step_rates(run: Run, line: dict[str, Any]) -> dict[str, float]:
    """Throughput of a step as the report states it; not of the virtual device, whose seconds mean nothing."""
    if run.device == "virtual" or not line["step_seconds"]:
        return {}
    a_rank = line["tokens"] / line["step_seconds"] / run.shape.world_size
    flops = model_flops_per_token(model_of(run), run.training.sequence_length)
    return {"tokens_per_second_per_rank": a_rank, "model_tflops_per_rank": a_rank * flops / 1e12}


def _nonfinite(line: dict[str, Any]) -> dict[str, float]:
    pairs = (pair.split("=") for pair in (line.get("nonfinite") or "").split())
    return {key: float(value) for key, value in pairs}


def _summary(status: Status) -> dict[str, Any]:
    final = status.final.model_dump() if status.final else {}
    return {"state": status.state, "attempts": status.attempts, **final}


def _pushed_file(directory: RunDirectory) -> Path:
    return directory.path / "wandb.json"


def _pushed(directory: RunDirectory) -> dict[str, Pushed]:
    """By mode; empty where nothing was pushed."""
    try:
        content = json.loads(_pushed_file(directory).read_text())
        return {mode: Pushed(**pushed) for mode, pushed in content.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def main(words: Sequence[str]) -> int:
    """Mirror some runs, one after the other; the exit code tells whether all went well."""
    mode: Mode = "online" if words[0] == "online" else "offline"
    failed = [done for folder in words[1:] if (done := mirror_run(Path(folder), mode)).error]
    for one in failed:
        print(f"hpz: {one.run_id} was not mirrored: {one.error}", file=sys.stderr)
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
