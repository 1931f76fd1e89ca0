"""How long the harness's own work takes: plan, render, status and collect at 10, 1,000 and 10,000 runs.

`python -m benchmarks.overhead [--runs 10,1000,10000]` prints a table of seconds. No SLURM is asked: squeue's answer is
made up, but parsed and joined as a real one is.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml

from analysis.collect.collect import collect_study
from harness.launch.slurm.arrays import Submission, write_submission
from harness.launch.slurm.clients import Clients, Job, parse_squeue
from harness.launch.slurm.profile import Profile
from harness.launch.slurm.scheduler import Scheduler
from harness.launch.slurm.script import render
from harness.launch.slurm.status import study_rows
from harness.launch.slurm.submit import plan_submissions
from harness.record import RunDirectory, StepRecord, StepWriter
from harness.study import Study, load_study, save_study
from harness.system.places import REPOSITORY
from harness.system.utc import utc_now
from harness.system.whole_file import write_json

STEPS = 10  # recorded by each run
PROFILE = Profile(name="benchmark", max_array_size=1001)
Result = TypeVar("Result")


@dataclass(frozen=True)
class Answer(Clients):
    """squeue's text for arrays of running tasks."""

    cluster: str = "benchmark"
    tasks: tuple[tuple[str, int], ...] = ()

    def squeue(self) -> list[Job]:
        return list(
            parse_squeue("\n".join(f"{array}|{i}|RUNNING|1:00|n[0-1]|hpz|None" for array, i in self.tasks))
        )


def study_file(runs: int, folder: Path) -> Path:
    """A study of this many runs: zero3 and fixed for each seed."""
    content = yaml.safe_load((REPOSITORY / "experiments" / "laptop.yaml").read_text())
    matrix = {"model": "llama2-toy", "variant": "fixed", "shape": "2x2-hpz2", "seed": list(range(runs // 2))}
    content |= {"name": "benchmark", "device": "cpu", "baseline": {"variant": "zero3"}, "matrix": matrix}
    model = yaml.safe_load((REPOSITORY / "experiments" / "models" / "llama2-toy.yaml").read_text())
    file = folder / "benchmark.yaml"
    file.write_text(yaml.safe_dump(content | {"models": {"llama2-toy": model}}))
    return file


def timed(seconds: dict[str, float], name: str, work: Callable[[], Result]) -> Result:
    started = time.perf_counter()
    result = work()
    seconds[name] = time.perf_counter() - started
    return result


def measure(runs: int, folder: Path) -> dict[str, float]:
    """Seconds of each verb for a study of `runs` runs."""
    seconds: dict[str, float] = {}
    file, results = study_file(runs, folder), folder / "results"
    study = timed(seconds, "plan", lambda: planned(file))
    arrays = plan_submissions(study, results, PROFILE, None)
    timed(
        seconds,
        "render",
        lambda: [render(a, PROFILE) for a in plan_submissions(study, results, PROFILE, None)],
    )
    clients = write_results(study, results, arrays)
    scheduler = Scheduler(clients, folder / "cache.json")
    timed(seconds, "status", lambda: study_rows(study, results, scheduler))
    timed(seconds, "status again", lambda: study_rows(study, results, scheduler))
    timed(seconds, "collect", lambda: collect_study(results))
    timed(seconds, "collect again", lambda: collect_study(results))
    return seconds


def planned(file: Path) -> Study:
    study = load_study(file)
    _ = study.pairs
    return study


def write_results(study: Study, results: Path, arrays: Iterable[Submission]) -> Answer:
    """Run directories half-way through, and their submissions; returns what squeue would say."""
    save_study(study, results)
    tasks = []
    for number, array in enumerate(arrays, start=1):
        write_submission(array, render(array, PROFILE), PROFILE)
        state = {"schema_version": 1, "job_id": str(number), "cluster": Answer.cluster, "mark": array.mark}
        write_json(array.folder / "submission.json", state | {"utc": "2026-01-01T00:00:00.000Z"})
        tasks += [(str(number), index) for index in range(len(array.tasks))]
    for run in study.runs:
        directory = RunDirectory(results / "runs" / run.run_id)
        directory.create(run)
        writer = StepWriter(directory.steps_file)
        for step in range(STEPS):
            writer.write(StepRecord(step, 4.0, 1.0, 1e-3, 256, 0.1, 30, None, 2000, 1000, False))
        writer.close()
        directory.update_status(state="running", heartbeat_utc=utc_now(), step=STEPS - 1)
    return Answer(tasks=tuple(tasks))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", default="10,1000,10000", help="study sizes, comma-separated")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    arguments = parser.parse_args()
    table: dict[int, dict[str, Any]] = {}
    for runs in map(int, arguments.runs.split(",")):
        with tempfile.TemporaryDirectory() as folder:
            table[runs] = measure(runs, Path(folder))
    if arguments.json:
        print(json.dumps(table))
        return
    verbs = list(next(iter(table.values())))
    print(f"{'runs':>7}  " + "  ".join(f"{verb:>13}" for verb in verbs))
    for runs, seconds in table.items():
        print(f"{runs:>7}  " + "  ".join(f"{seconds[verb]:>11.3f} s" for verb in verbs))


if __name__ == "__main__":
    main()
