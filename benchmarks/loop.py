"""What the loop costs beside a bare one on one rank: `python -m benchmarks.loop`, on a GPU where the study asks for it.

The same engine, batches of the same prepared text: the harness (a thread that makes batches ready, hashes, counters,
laps, records) and three bare calls a step, in alternating blocks. The goal is a ratio of at most 1.01.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.device import alternate


def main(
    study: Annotated[Path, typer.Option(help="its first run, which must have one rank")] = Path(
        "experiments/one-gpu-speed.yaml"
    ),
    rounds: Annotated[int, typer.Option(help="how often both are measured")] = 3,
) -> None:
    """Print milliseconds a step of both loops, and their ratio with its range over the rounds."""
    import torch

    from harness.device import open_device
    from harness.record import RunDirectory
    from harness.study import load_study
    from harness.system.ports import free_port
    from harness.workload.engine import build_engine
    from harness.workload.rank import Rank
    from harness.workload.session import Session, StopRequest
    from harness.workload.train import import_everything, open_run_batches, prefetched

    run = load_study(study).runs[0]
    assert run.shape.world_size == 1, "one rank, please"
    run = run.model_copy(update={"training": run.training.model_copy(update={"steps": 10_000})})
    for name, value in {"RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": 1, "LOCAL_SIZE": 1}.items():
        os.environ[name] = str(value)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    import_everything(run.device)
    device, place = open_device(run.device), Rank.from_environment()
    device.rendezvous()
    device.connect()
    folder = Path(tempfile.mkdtemp())
    directory = RunDirectory(folder / "run")
    directory.path.mkdir()
    ratios = []
    with device.activate():
        engine, plain = build_engine(run, device), open_run_batches(run, place)
        with prefetched(plain, run, device) as batches:
            session = Session(run, directory, place, device, engine, batches, StopRequest())

            def harness(step: int) -> None:
                session.pending.append(session.step(step))
                session.write_arrived()
                session.stop.agreed_after(step, 0)

            ready = {name: t.to(device.torch_device) for name, t in plain.at(0, 0).items()}

            def bare(step: int) -> None:
                engine.backward(engine(**ready).loss)
                engine.step()

            for _ in range(rounds):
                times = alternate(harness, bare, device.synchronize)
                ratios.append(times["harness"] / times["bare"])
                print(
                    f"harness {times['harness'] * 1e3:.2f} ms, bare {times['bare'] * 1e3:.2f} ms: {ratios[-1]:.4f}"
                )
    card = torch.cuda.get_device_name() if run.device == "cuda" else "CPU"
    print(
        f"{run.model} on {card}: {statistics.median(ratios):.4f} ({min(ratios):.4f} to {max(ratios):.4f}), goal 1.01"
    )
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    typer.run(main)
