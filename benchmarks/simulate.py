"""What simulated time costs: `python -m benchmarks.simulate`, trace and timeline of each real model on this machine.

Traces are really taken, in a cache of their own. The goal for a 70B step at world size 64 is 60 s and 8 GB on 2 cores.
"""

from __future__ import annotations

import os
import resource
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated

import typer
import yaml
from rich.console import Console
from rich.table import Table

from harness.hardware import cluster
from harness.simulate.engine import simulate
from harness.simulate.trace import load
from harness.simulate.traces import traces
from harness.study import Run, Study, load_study
from harness.system.places import REPOSITORY, cache_folder
from harness.variants import Variant, overlay_path

MODELS = ("llama2-7b", "llama2-13b", "llama2-70b", "falcon-7b", "falcon-40b")


def run_of(model: str, variant: str, shape: str) -> Run:
    """The model in the paper's training settings."""
    paper = load_study(REPOSITORY / "experiments/paper.yaml")
    spec = yaml.safe_load((REPOSITORY / "experiments/models" / f"{model}.yaml").read_text())
    block = {"model": model, "variant": variant, "shape": shape}
    content = paper.model_dump(mode="json")
    study = Study.model_validate({**content, "simulate": {}, "matrix": [block], "models": {model: spec}})
    return next(run for run in study.runs if run.variant == variant)


def main(
    models: Annotated[list[str] | None, typer.Option(help="files of experiments/models")] = None,
    variant: Annotated[str, typer.Option()] = "fixed",
    shape: Annotated[str, typer.Option()] = "8x8-hpz8",
) -> None:
    """Print seconds and memory for each model."""
    table = Table(
        title=f"{variant}, {shape}, {len(os.sched_getaffinity(0))} cores, other load {os.getloadavg()[0]:.1f}"
    )
    headings = (
        "model",
        "records",
        "trace s",
        "of it the step s",
        "trace MB",
        "file kB",
        "timeline s",
        "… without contention s",
        "timeline MB",
    )
    for heading in headings:
        table.add_column(heading, justify="left" if heading == "model" else "right")
    for model in models or MODELS:
        table.add_row(model, *measure(run_of(model, variant, shape)))
    Console(width=140).print(table)


def measure(run: Run) -> list[str]:
    """Take the trace from nothing, then run its timeline with and without contention, in a process of its own."""
    overlay_path(Variant.parse(run.variant), run.release)  # built once, and no part of a trace
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "overlays").symlink_to(cache_folder() / "overlays")
        with _cache_at(folder):
            started = time.perf_counter()
            file = traces([run])[run.run_id]
            seconds = time.perf_counter() - started
        with ProcessPoolExecutor(1, mp_context=get_context("spawn"), max_tasks_per_child=1) as pool:
            timelines = list(pool.map(timeline, [(file, True), (file, False)]))
        trace, size = load(file), file.stat().st_size
    about = trace.about
    return [
        str(len(trace)),
        f"{seconds:.1f}",
        f"{about['trace_seconds']['step']:.1f}",
        f"{about['trace_peak_rss_bytes'] / 1e6:.0f}",
        f"{size / 1e3:.0f}",
        *(f"{took:.2f}" for took, _ in timelines),
        f"{max(peak for _, peak in timelines) / 1e6:.0f}",
    ]


def timeline(work: tuple[Path, bool]) -> tuple[float, int]:
    """Seconds of one timeline, and the most memory that this process had, bytes."""
    file, contention = work
    trace = load(file)
    on = cluster("a100-sxm-80gb", "infiniband-400gbps", "server", contention=contention)
    started = time.perf_counter()
    simulate(trace, on)
    return time.perf_counter() - started, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@contextmanager
def _cache_at(folder: str) -> Iterator[None]:
    before = os.environ.get("HPZ_CACHE")
    os.environ["HPZ_CACHE"] = folder
    try:
        yield
    finally:
        os.environ.pop("HPZ_CACHE")
        os.environ.update({"HPZ_CACHE": before} if before else {})


if __name__ == "__main__":
    typer.run(main)
