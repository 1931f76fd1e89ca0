"""Pushes a study of many short runs to wandb's offline stores, as `hpz wandb` does, and again with nothing new.

Made-up runs, in the record's own format; nothing of them is a result. A third push is killed half-way and gone on with:
its seconds are those of both halves. The goal (`GOALS`) is for the default sizes on two cores.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import shutil
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.collect import study_of, write_runs
from harness.record.mirror import PUSHERS, mirror_study

GOALS = {"first push": 300.0}  # seconds
FIRST, AGAIN, KILLED = "first push", "nothing new", "killed half-way, gone on"


def push(folder: Path, jobs: int) -> int:
    """Push what is not pushed; returns the steps that were new. Raises RuntimeError where a run could not be pushed."""
    mirrored = mirror_study(folder, "offline", jobs)
    failed = [one for one in mirrored if one.error]
    if failed:
        raise RuntimeError(f"{failed[0].run_id}: {failed[0].error}")
    return sum(one.new_steps for one in mirrored)


def timed(folder: Path, jobs: int) -> dict[str, float]:
    started = time.perf_counter()
    steps = push(folder, jobs)
    return {"steps": steps, "seconds": time.perf_counter() - started}


def forget(folder: Path) -> None:
    """As if nothing had been pushed."""
    for run in (folder / "runs").iterdir():
        shutil.rmtree(run / "wandb", ignore_errors=True)
        (run / "wandb.json").unlink(missing_ok=True)


def killed_and_gone_on(folder: Path, jobs: int) -> dict[str, float]:
    """Kill a push when half of the runs are told, and push again."""
    runs = len(list((folder / "runs").iterdir()))
    started = time.perf_counter()
    first = multiprocessing.get_context("spawn").Process(target=push, args=(folder, jobs))
    first.start()
    while first.is_alive() and len(list(folder.glob("runs/*/wandb.json"))) < runs / 2:
        time.sleep(0.05)
    first.kill()
    first.join()
    steps = push(folder, jobs)
    return {"steps": steps, "seconds": time.perf_counter() - started}


def benchmark(folder: Path, runs: int, steps: int, jobs: int) -> dict[str, dict[str, float]]:
    if not (folder / "study.yaml").exists():
        write_runs(study_of(runs, steps), folder)
    forget(folder)
    results = {FIRST: timed(folder, jobs), AGAIN: timed(folder, jobs)}
    forget(folder)
    return results | {KILLED: killed_and_gone_on(folder, jobs)}


def as_table(results: dict[str, dict[str, float]]) -> str:
    rows = [f"{'':28}{'new steps':>12}{'seconds':>10}{'goal':>8}"]
    for name, one in results.items():
        goal = f"{GOALS[name]:g} s" if name in GOALS else ""
        rows.append(f"{name:28}{one['steps']:12,.0f}{one['seconds']:10.1f}{goal:>8}")
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--jobs", type=int, default=PUSHERS)
    parser.add_argument(
        "--folder", type=Path, help="keep the made-up runs here; used again if they are there"
    )
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    folder = arguments.folder or Path(tempfile.mkdtemp(prefix="hpz-mirror-"))
    try:
        results = benchmark(folder, arguments.runs, arguments.steps, arguments.jobs)
    finally:
        if arguments.folder is None:
            shutil.rmtree(folder, ignore_errors=True)
    print(json.dumps(results, indent=1) if arguments.json else as_table(results))


if __name__ == "__main__":
    main()
