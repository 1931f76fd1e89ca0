"""Stands in for training where only SLURM is under test: same files, same signals, milliseconds instead of seconds.

Started in place of harness.launch.slurm.rank with the same arguments. QUICK_RANK holds JSON: {"step_seconds": 0.02,
"crash_rank": 1, "crash": "exit" | "kill" | "memory", "crash_attempts": 1, "deaf_seconds": 3, "hold_at": 5 where a run
that begins stays at that step until it is stopped, "say": ["NAME", …] of variables}.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from typing import Any

from harness.launch.slurm.ended import steps_reached
from harness.launch.slurm.rank import Place, check_placement, listen, log_to
from harness.record import Final, RunDirectory, StepRecord, StepWriter
from harness.system.errors import HarnessError
from harness.system.utc import utc_now

HELD = 600.0  # seconds: longer than any test waits


def main() -> int:
    behaviour = json.loads(os.environ.get("QUICK_RANK", "{}"))
    time.sleep(behaviour.get("deaf_seconds", 0))  # as one that still imports
    listen()
    asked: list[int] = []
    signal.signal(signal.SIGUSR1, lambda *_: asked.append(1))
    directory, until = RunDirectory(sys.argv[-2]), int(sys.argv[-1])
    place = Place.from_slurm(os.environ)
    log_to(directory, place.rank)
    check_placement(place, directory.run().shape, bool(os.environ.get("HPZ_GROUPS_ACROSS_NODES")))
    print(
        f"rank {place.rank} of {place.world_size} on node {place.node} at {os.environ['MASTER_ADDR']}",
        flush=True,
    )
    for name in behaviour.get("say", ()):
        print(f"the server refused {os.environ[name]}", flush=True)
    meet(directory, place)
    if "crash" in behaviour and directory.status().attempts <= behaviour.get("crash_attempts", 1):
        if place.rank == behaviour["crash_rank"]:
            crash(behaviour["crash"])
        wait(60, asked)  # as in a collective that never ends, until srun ends it
    train(directory, place, until, behaviour, asked)
    return 0


def meet(directory: RunDirectory, place: Place) -> None:
    """Start together, as ranks that train do: a rank has arrived once it has said where it is; a refused one never."""
    logs = [directory.logs / f"rank-{rank}.txt" for rank in range(place.world_size)]
    while not all(log.exists() and log.read_text().startswith("rank ") for log in logs):
        time.sleep(0.02)


def crash(how: str) -> None:
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "memory":
        print("torch.OutOfMemoryError: CUDA out of memory.", flush=True)
    print("the last words", flush=True)
    os._exit(1)


def train(
    directory: RunDirectory, place: Place, until: int, behaviour: dict[str, Any], asked: list[int]
) -> None:
    run, seconds = directory.run(), behaviour.get("step_seconds", 0.01)
    steps, gathers = run.training.steps, 30 if run.shape.hpz > 1 else 0
    step = steps_reached(directory)
    hold_at = behaviour.get("hold_at") if step == 0 else None
    writer = StepWriter(directory.steps_file, step) if place.rank == 0 else None
    while step < until and not asked:
        wait(HELD if step == hold_at else seconds, asked)
        if writer is not None:
            loss = 4.0 - step / 100
            writer.write(StepRecord(step, loss, 1.0, 1e-3, 64, seconds, gathers, None, 0, 0, False))
            directory.update_status(heartbeat_utc=utc_now(), step=step)
            save(directory, step + 1)
        step += 1
    if writer is not None and step == steps:
        final = Final(steps=steps, skipped_steps=0, shards_sha256="0" * 64)
        directory.update_status(final=final.model_dump())


def wait(seconds: float, asked: list[int]) -> None:
    deadline = time.monotonic() + seconds
    while not asked and time.monotonic() < deadline:
        time.sleep(min(seconds, 0.02))


def save(directory: RunDirectory, step: int) -> None:
    directory.checkpoints.mkdir(exist_ok=True)
    beside = directory.checkpoints / "latest.tmp"
    beside.write_text(f"step{step}")
    beside.replace(directory.checkpoints / "latest")


if __name__ == "__main__":
    try:
        code = main()
    except HarnessError as error:
        print(f"hpz: {error}", flush=True)
        code = 2
    sys.stdout.flush()
    os._exit(code)  # as the real rank: Python's own teardown would let a late signal kill it
