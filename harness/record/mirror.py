"""Mirrors runs to Weights & Biases under their run ids, always from the local files, never from inside a training.

Local files are the truth: a mirror that fails harms nothing. Offline is the default, and a run has one offline store
with every step once, written anew where there is more to tell (several of one run overwrite each other when they are
synced: wandb #3841). WANDB_MODE=online (or `hpz wandb --online`) with a configured account sends what is new to the
server. On SLURM each array task mirrors its runs while they train (harness.record.live), and once more when it ends:
`python -m harness.record.mirror MODE RUN_DIRECTORY…`.
"""

from __future__ import annotations

import fcntl
import json
import multiprocessing
import os
import shutil
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
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
NOT_LOGGED = {"schema", "nonfinite", "utc", "tokens"}
# DeepSpeed's own names (runtime/engine.py), for dashboards of a user's runs; with the factor to its unit.
ALIASES = {
    "Train/Samples/train_loss": ("loss", 1.0),
    "Train/Samples/lr": ("lr", 1.0),
    "Train/Samples/elapsed_time_ms_forward": ("forward_seconds", 1e3),
    "Train/Samples/elapsed_time_ms_backward": ("backward_seconds", 1e3),
    "Train/Samples/elapsed_time_ms_step": ("optimizer_seconds", 1e3),
}


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
        with sole_pusher(directory):
            last = _pushed(directory).get(mode, Pushed()).last_step
            return _push(directory, mode, last)
    except Exception as error:
        return Mirrored(folder.name, 0, last, f"{type(error).__name__}: {error}")


@contextmanager
def sole_pusher(directory: RunDirectory) -> Iterator[None]:
    """Two at once, a job that ends and `hpz wandb`, would push everything twice."""
    with (directory.path / ".wandb.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _push(directory: RunDirectory, mode: Mode, last: int) -> Mirrored:
    lines = list(read_lines(directory.steps_file))
    newest = max((line["step"] for line in lines), default=-1)
    if Pushed(newest, directory.status().state) == _pushed(directory).get(mode):
        return Mirrored(directory.path.name, 0, last)
    session = Session(directory, mode)
    new = session.log(lines)
    session.finish()
    return Mirrored(directory.path.name, sum(step > last for step in new), newest)


class Session:
    """A run at wandb while it is being told: in its one offline store, begun anew, or on the server, gone on with."""

    def __init__(self, directory: RunDirectory, mode: Mode) -> None:
        self.directory, self.mode = directory, mode
        self.run = directory.run()
        self.last_step = _pushed(directory).get(mode, Pushed()).last_step if mode == "online" else -1
        if mode == "offline":
            for store in directory.path.glob("wandb/offline-run-*"):
                shutil.rmtree(store)
        self._wandb = _open(directory, self.run, mode)

    def log(self, lines: Sequence[Mapping[str, Any]]) -> list[int]:
        """Tell the steps that were not told yet, given the lines of all; returns which they were."""
        new = []
        for step, values in logged(lines, self.run, self.last_step):
            self._wandb.log(values, step=step)
            self.last_step = step
            new.append(step)
        return new

    def finish(self) -> None:
        """Tell how the run stands, close the store, and write down how far it was told."""
        status = self.directory.status()
        self._wandb.summary.update(_summary(status))
        self._wandb.finish()
        told = _pushed(self.directory) | {self.mode: Pushed(self.last_step, status.state)}
        write_json(_pushed_file(self.directory), {name: vars(pushed) for name, pushed in told.items()})


def logged(
    lines: Iterable[Mapping[str, Any]], run: Run, told: int = -1
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Each step after `told` with its values for wandb, given the lines of all steps.

    `tokens`, `samples` and `elapsed_seconds` are of the run so far.
    """
    elapsed, per_step = 0.0, run.tokens_per_step
    flops = model_flops_per_token(model_of(run), run.training.sequence_length)
    for line in lines:
        step = int(line["step"])
        elapsed += line.get("step_seconds") or 0.0
        if step <= told:
            continue
        values = {k: v for k, v in line.items() if k not in NOT_LOGGED and v is not None} | _nonfinite(line)
        values |= {
            "step_tokens": line.get("tokens"),
            "tokens": (step + 1) * per_step,
            "samples": (step + 1) * per_step // run.training.sequence_length,
            "elapsed_seconds": elapsed,
        }
        values |= step_rates(run, line, flops)
        values |= {alias: values[name] * unit for alias, (name, unit) in ALIASES.items() if name in values}
        yield step, values


def step_rates(run: Run, line: Mapping[str, Any], flops: float) -> dict[str, float]:
    """Throughput of a step as the report states it; not of the virtual device, whose seconds mean nothing.

    `flops` are the model's FLOPs a token.
    """
    if run.device == "virtual" or not line["step_seconds"]:
        return {}
    rate = line["tokens"] / line["step_seconds"]
    a_rank = rate / run.shape.world_size
    return {
        "tokens_per_second": rate,
        "tokens_per_second_per_rank": a_rank,
        "model_tflops_per_rank": a_rank * flops / 1e12,
    }


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
    opened = wandb.init(
        id=run.run_id,
        name=run.run_id,
        project=os.environ.get("WANDB_PROJECT", PROJECT),
        group=run.study,
        job_type=run.variant,
        tags=[run.variant, run.evidence],
        config=flat(run.model_dump(mode="json", exclude={"model_spec"})),
        dir=directory.path,
        resume="allow" if mode == "online" else None,  # a requeued run goes on under its id
        reinit="create_new",  # several runs are told at once
        settings=settings,
    )
    for axis in ("step", "samples", "tokens", "elapsed_seconds"):
        opened.define_metric(axis)
    opened.define_metric("*", step_metric="step")
    opened.define_metric("Train/Samples/*", step_metric="samples")
    return opened


def flat(nested: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """A nested mapping as one level, its keys joined by dots."""
    found: dict[str, Any] = {}
    for key, value in nested.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{above}{key}.")
        else:
            found[f"{above}{key}"] = value
    return found


def read_lines(file: Path) -> Iterator[dict[str, Any]]:
    """Whole lines only: the last one may still be written."""
    for text in file.read_text().splitlines() if file.exists() else []:
        try:
            yield json.loads(text)
        except ValueError:
            return


def _nonfinite(line: Mapping[str, Any]) -> dict[str, float]:
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
