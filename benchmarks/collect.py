"""How fast runs are collected and reported: 2,000 runs × 5,000 steps, beside other readers of the same lines.

    python -m benchmarks.collect [--runs 2000] [--steps 5000] [--many 10000] [--folder DIR] [--json]

The runs are made up, by copying a few series of numbers into the documented format; nothing of them is a result. Other
readers get one hundred runs at most, because only their rate is wanted; TensorBoard's gets ten, as event files of four
scalars a step, where it is installed (`pip install -e '.[bench]'`). A second study of `--many` short runs shows what it
costs to look for news where there is none.

Prints rows a second, peak memory (MiB) and, against pandas.read_json, rows for each second of processor time. The goals
(`GOALS`) are for the default sizes on two quiet cores.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import multiprocessing
import resource
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from analysis.collect.collect import collect_study
from analysis.page.report import build_report
from harness.record import StepRecord
from harness.record.directory import describe_run
from harness.study import Run, Study, load_study, save_study
from harness.system.places import REPOSITORY
from harness.system.utc import utc_now
from harness.system.whole_file import write_json

SHARE = 100  # runs that the other readers get
MANY_STEPS = 10  # of each run of the second study
APPENDED = 10  # lines
GOALS = {
    "hpz collect": ("seconds", 15),
    "hpz collect, 10 new lines": ("seconds", 1),
    "hpz collect, nothing new": ("seconds", 0.3),
    "hpz report": ("peak_mib", 1024),
}
UNITS = {"seconds": "s", "peak_mib": "MiB"}
SCALARS = ("loss", "grad_norm", "lr", "step_seconds")  # of each step, in event files


def study_of(runs: int, steps: int) -> Study:
    """A study of about `runs` runs: seeds × the five variants that a report compares."""
    seeds = list(range(1, max(2, runs // 5) + 1))
    base = load_study(REPOSITORY / "experiments" / "laptop.yaml")
    common = {"model": "llama2-toy", "seed": seeds}
    return Study.model_validate(
        {
            **base.model_dump(mode="json"),
            "name": "benchmark",
            "training": {**base.training.model_dump(), "steps": steps},
            "baseline": {"variant": "zero3", "policy": "side-first"},
            "matrix": [
                {
                    **common,
                    "variant": ["stock", "unordered", "fixed", "event"],
                    "shape": "2x2-hpz2",
                    "policy": "side-first",
                }
            ],
        }
    )


def write_runs(study: Study, folder: Path) -> int:
    """Write every run's directory; returns the number of step lines."""
    save_study(study, folder)
    lines = 0
    texts: dict[tuple[str, int], str] = {}
    for run in study.runs:
        directory = folder / "runs" / run.run_id
        directory.mkdir(parents=True, exist_ok=True)
        write_json(directory / "run.json", describe_run(run))
        final = {"steps": run.training.steps, "skipped_steps": 0, "shards_sha256": "0" * 64}
        write_json(
            directory / "status.json", {"schema_version": 1, "state": "done", "attempts": 1, "final": final}
        )
        key = (run.variant, run.seed % 8)
        if key not in texts:
            texts[key] = "".join(step_lines(run))
        (directory / "steps.jsonl").write_text(texts[key])
        lines += run.training.steps
    return lines


def step_lines(run: Run) -> Iterator[str]:
    """Lines as the record writes them, of a run whose link was metered: no field is left out."""
    steps, hpz = run.training.steps, run.variant != "zero3"
    random = np.random.default_rng(run.seed % 8)
    losses = np.float32(2 + 3 * np.exp(-np.arange(steps) / 900) + random.normal(0, 0.02, steps)).astype(float)
    if run.variant == "stock":
        losses[steps // 2 :] = math.nan
    seconds = random.lognormal(-2.5, 0.1, steps)
    wire = (600480 if not hpz else 400320) + random.integers(20_000, 30_000, steps)
    for step in range(steps):
        record = StepRecord(
            step=step,
            loss=float(losses[step]),
            grad_norm=float(losses[step] / 2),
            lr=0.002,
            tokens=256,
            step_seconds=float(seconds[step]),
            secondary_gathers=39 if hpz else 0,
            host_syncs=45 if run.variant == "fixed" else 6,
            bytes_intra=1234567,
            bytes_inter=400320 if hpz else 600480,
            skipped=bool(np.isnan(losses[step])),
            batch_hash=int(random.integers(1 << 32)),
            device_seconds=float(seconds[step] * 0.9),
            host_blocked_seconds=float(seconds[step] * 0.01),
            wire_bytes=int(wire[step]),
            wire_bytes_predicted=int(wire[step] + 100),
        )
        yield record.line() + "\n"


def measured(work: Callable[[Path], int], folder: Path) -> dict[str, float]:
    """Rows, seconds and peak memory of `work` in a process of its own."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        return pool.apply(_timed, (work, folder))


def _timed(work: Callable[[Path], int], folder: Path) -> dict[str, float]:
    started, spent = time.perf_counter(), time.process_time()
    rows = work(folder)
    seconds, spent = time.perf_counter() - started, time.process_time() - spent
    return {
        "rows": rows,
        "seconds": seconds,
        "cpu_seconds": spent,  # tells a slow reader from a busy machine
        "rows_per_second": rows / seconds,
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def collect_all(folder: Path) -> int:
    return collect_study(folder).lines_read


def append_and_collect(folder: Path) -> int:
    """Record the last step of ten runs, spread over the study, once more; returns the lines read."""
    runs = sorted((folder / "runs").iterdir())
    for directory in runs[:: -(-len(runs) // APPENDED)]:
        line = (directory / "steps.jsonl").read_text().splitlines()[-1]
        row = {**json.loads(line), "utc": utc_now()}
        with (directory / "steps.jsonl").open("a") as stream:
            stream.write(json.dumps(row) + "\n")
    return collect_all(folder)


def report_all(folder: Path) -> int:
    build_report(folder)
    return int(collect_study(folder).counts()["steps"])


def files_of(folder: Path) -> list[Path]:
    return [path / "steps.jsonl" for path in sorted((folder / "runs").iterdir())[:SHARE]]


def with_pandas(folder: Path) -> int:
    import pandas as pd

    return sum(len(pd.read_json(file, lines=True)) for file in files_of(folder))


def with_pyarrow(folder: Path) -> int:
    import pyarrow.json

    return sum(pyarrow.json.read_json(file).num_rows for file in files_of(folder))


def with_json(folder: Path) -> int:
    return sum(1 for file in files_of(folder) for line in file.open() if json.loads(line))


def write_events(folder: Path) -> None:
    """The scalars of ten runs as TensorBoard's event files."""
    from torch.utils.tensorboard import SummaryWriter

    for file in files_of(folder)[:10]:
        with SummaryWriter(str(folder / "events" / file.parent.name)) as writer:
            for line in file.open():
                row = json.loads(line)
                for name in SCALARS:
                    writer.add_scalar(name, float("nan") if row[name] is None else row[name], row["step"])


def with_tensorboard(folder: Path) -> int:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    scalars = 0
    for directory in (folder / "events").iterdir():
        reader = EventAccumulator(str(directory), size_guidance={"scalars": 0})
        reader.Reload()
        scalars += sum(len(reader.Scalars(name)) for name in reader.Tags()["scalars"])
    return scalars


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--runs", type=int, default=2000)
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--many", type=int, default=10_000, help="runs of the second, short study")
    parser.add_argument(
        "--folder", type=Path, help="keep the made-up runs here; used again if they are there"
    )
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    folder = arguments.folder or Path(tempfile.mkdtemp(prefix="hpz-collect-"))
    try:
        results = benchmark(folder, arguments.runs, arguments.steps, arguments.many)
    finally:
        if arguments.folder is None:
            shutil.rmtree(folder, ignore_errors=True)
    print(json.dumps(results, indent=1) if arguments.json else as_table(results))


def benchmark(folder: Path, runs: int, steps: int, many: int) -> dict[str, dict[str, float]]:
    """All measurements, in order."""
    if not (folder / "study.yaml").exists():
        write_runs(study_of(runs, steps), folder)
    if not (folder / "many" / "study.yaml").exists():
        write_runs(study_of(many, MANY_STEPS), folder / "many")
    for table in (folder / "runs.parquet", folder / "steps.parquet"):
        shutil.rmtree(table) if table.is_dir() else table.unlink(missing_ok=True)
    works: dict[str, Callable[[Path], int]] = {
        "pandas.read_json": with_pandas,
        "pyarrow.json.read_json": with_pyarrow,
        "json.loads": with_json,
        "hpz collect": collect_all,
        "hpz collect, 10 new lines": append_and_collect,
        "hpz report": report_all,
    }
    if importlib.util.find_spec("tensorboard"):
        shutil.rmtree(folder / "events", ignore_errors=True)
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            pool.apply(write_events, (folder,))
        works = {"TensorBoard events, scalars": with_tensorboard, **works}
    results = {name: measured(work, folder) for name, work in works.items()}
    measured(collect_all, folder / "many")
    return {**results, "hpz collect, nothing new": measured(collect_all, folder / "many")}


def as_table(results: dict[str, dict[str, float]]) -> str:
    head = f"{'':28}{'rows':>12}{'seconds':>10}{'CPU s':>8}{'M rows/s':>10}{'peak MiB':>10}{'× pandas':>10}{'goal':>10}"
    rows, pandas = [head], per_cpu_second(results["pandas.read_json"])
    for name, one in results.items():
        rate, ratio = one["rows_per_second"] / 1e6, per_cpu_second(one) / pandas
        column, goal = GOALS.get(name, (None, None))
        aim = f"{goal:g} {UNITS[column]}" if column else ""
        rows.append(
            f"{name:28}{one['rows']:12,.0f}{one['seconds']:10.2f}{one['cpu_seconds']:8.2f}{rate:10.2f}"
            f"{one['peak_mib']:10.0f}{ratio:10.1f}{aim:>10}"
        )
    return "\n".join(rows)


def per_cpu_second(one: dict[str, float]) -> float:
    return one["rows"] / one["cpu_seconds"]


if __name__ == "__main__":
    main()
