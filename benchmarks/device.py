"""What the virtual device and the harness cost: `python -m benchmarks.device`, side by side on this machine.

Step time of real DeepSpeed with fixed hpZ on 4 forked ranks: virtual (eager, side-first) against plain CPU, and the
harness loop against a bare DeepSpeed loop on the same engine, in alternating blocks. Other load on the machine shows
in the wall time more than in the CPU time.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

REPOSITORY = Path(__file__).resolve().parent.parent
DEVICES = ("cpu", "virtual eager", "virtual side-first")
WARMUP, BLOCK = 3, 5  # steps
BLOCKS = 4  # of each loop, alternating


def main(
    model: Annotated[str, typer.Option(help="a file of experiments/models")] = "llama2-toy",
    rounds: Annotated[int, typer.Option(help="how often each device is measured, in turn")] = 3,
    worker: Annotated[str, typer.Option(hidden=True)] = "",
) -> None:
    """Print the ratios; the goals are 2 for the virtual device and 1.01 for the loop."""
    if worker:
        measure(worker, model)
        return
    results: dict[str, list[dict[str, float]]] = {device: [] for device in DEVICES}
    for _ in range(rounds):
        for device in DEVICES:
            results[device].append(run_worker(device, model))
    show(model, results)


def run_worker(device: str, model: str) -> dict[str, float]:
    """Medians of one process that imports everything and forks its ranks."""
    command = [sys.executable, __file__, "--worker", device, "--model", model]
    finished = subprocess.run(command, check=True, capture_output=True, text=True, cwd=REPOSITORY)
    lines = [line for line in finished.stdout.splitlines() if line.startswith("{")]
    return {key: float(value) for key, value in json.loads(lines[-1]).items()}


def show(model: str, results: dict[str, list[dict[str, float]]]) -> None:
    table = Table(title=f"{model}, fixed hpZ, 2x2-hpz2, 4 ranks on {len(os.sched_getaffinity(0))} cores")
    for column in (
        "device",
        "ms a step",
        "to cpu",
        "CPU ms a step and rank",
        "to cpu",
        "harness to bare loop",
    ):
        table.add_column(column, justify="left" if column == "device" else "right")
    for device, runs in results.items():
        plain = results["cpu"]
        table.add_row(
            device,
            middle([run["wall"] * 1e3 for run in runs], ".0f"),
            middle([run["wall"] / base["wall"] for run, base in zip(runs, plain, strict=True)], ".2f"),
            middle([run["cpu"] * 1e3 for run in runs], ".0f"),
            middle([run["cpu"] / base["cpu"] for run, base in zip(runs, plain, strict=True)], ".2f"),
            middle([run["harness"] / run["bare"] for run in runs], ".3f"),
        )
    Console().print(table)


def middle(values: list[float], form: str) -> str:
    """Median and range."""
    return f"{statistics.median(values):{form}} ({min(values):{form}}–{max(values):{form}})"


def measure(device: str, model: str) -> None:
    """The worker: import once, fork the ranks, wait for them."""
    sys.path.insert(0, str(REPOSITORY))
    from harness.system.ports import free_port
    from harness.workload.train import import_everything

    kind, _, policy = device.partition(" ")
    import_everything(kind)
    with tempfile.TemporaryDirectory() as folder:
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
        run = describe_run(model, kind, policy or "eager", Path(folder))
        ranks = [fork_rank(run, rank, place, Path(folder)) for rank in range(4)]
        if any(os.waitpid(pid, 0)[1] for pid in ranks):
            sys.exit(1)


def describe_run(model: str, kind: str, policy: str, folder: Path) -> Any:
    """The one virtual or cpu run of a study made for this."""
    import shutil

    import yaml

    from harness.study import load_study

    shutil.copytree(REPOSITORY / "experiments", folder / "experiments")
    study = yaml.safe_load((folder / "experiments" / "laptop.yaml").read_text())
    study |= {"name": "benchmark", "baseline": {"policy": "eager"}}
    study["training"]["steps"] = 1000
    study["matrix"] = {
        "model": model,
        "variant": "fixed",
        "shape": "2x2-hpz2",
        "device": kind,
        "policy": policy,
    }
    file = folder / "experiments" / "benchmark.yaml"
    file.write_text(yaml.safe_dump(study))
    return next(run for run in load_study(file).runs if run.variant == "fixed")


def fork_rank(run: Any, rank: int, place: dict[str, str], folder: Path) -> int:
    pid = os.fork()
    if pid:
        return pid
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "4", "LOCAL_SIZE": "4", **place}
    code = 1
    try:
        be_rank(run, rank, folder)
        code = 0
    finally:
        os._exit(code)


def be_rank(run: Any, rank: int, folder: Path) -> None:
    """Train in alternating blocks of both loops; rank 0 prints the medians in seconds a step."""
    import deepspeed
    import torch

    from harness.device import open_device
    from harness.record import RunDirectory
    from harness.workload.engine import build_engine
    from harness.workload.rank import Rank
    from harness.workload.session import Session, StopRequest
    from harness.workload.train import open_run_batches, policy_of

    device = open_device(run.device, policy=policy_of(run))
    deepspeed.init_distributed(dist_backend=device.backend, verbose=False)
    device.connect()
    place, directory = Rank.from_environment(), RunDirectory(folder / "run")
    directory.path.mkdir(exist_ok=True)
    with device.activate():
        engine, batches = build_engine(run, device), open_run_batches(run, place)
        session = Session(run, directory, place, device, engine, batches, StopRequest())

        def harness(step: int) -> None:
            session.pending.append(session.step(step))
            session.write_arrived()
            session.stop.agreed_after(step, rank)

        def bare(step: int) -> None:
            loss = engine(**{n: t.to(device.torch_device) for n, t in batches.at(step, 0).items()}).loss
            engine.backward(loss)
            engine.step()

        times = alternate(harness, bare, device.synchronize)
    torch.distributed.barrier()
    if rank == 0:
        os.write(1, (json.dumps(times) + "\n").encode())


def alternate(
    harness: Callable[[int], None], bare: Callable[[int], None], synchronize: Callable[[], None]
) -> dict[str, float]:
    """Medians of the blocks, in seconds a step: both loops' wall time, and wall and CPU time of the bare one."""
    step = 0
    for step in range(WARMUP):
        harness(step)
        bare(step)
    blocks: dict[str, list[float]] = {"harness": [], "bare": [], "cpu": []}
    for _ in range(BLOCKS):
        for name, loop in (("harness", harness), ("bare", bare)):
            synchronize()
            wall, cpu = time.perf_counter(), time.process_time()
            for _ in range(BLOCK):
                step += 1
                loop(step)
            synchronize()
            blocks[name].append((time.perf_counter() - wall) / BLOCK)
            if name == "bare":
                blocks["cpu"].append((time.process_time() - cpu) / BLOCK)
    medians = {name: statistics.median(values) for name, values in blocks.items()}
    return {**medians, "wall": medians["bare"]}


if __name__ == "__main__":
    typer.run(main)
