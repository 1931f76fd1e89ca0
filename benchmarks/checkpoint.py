"""What a checkpoint costs a rank in memory: `python -m benchmarks.checkpoint`, on this machine's CPU.

Real DeepSpeed on 2 forked ranks. The most that a rank holds while it writes its shards, beyond what it held before,
as a share of what it wrote: 1 would say that its memory doubles.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

REPOSITORY = Path(__file__).resolve().parent.parent

WORLD = 2
CLEAR_PEAK = "5"  # written to /proc/self/clear_refs: proc(5)


def main(
    layers: Annotated[int, typer.Option(help="each has 3.1 M parameters, of which a rank holds 7 bytes")] = 8,
    worker: Annotated[bool, typer.Option(hidden=True)] = False,
) -> None:
    """Print the shares, of the first checkpoint and of the second."""
    if worker:
        measure(layers)
        return
    command = [sys.executable, __file__, "--worker", "--layers", str(layers)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=REPOSITORY)
    found = json.loads([line for line in done.stdout.splitlines() if line.startswith("{")][-1])
    for number, one in enumerate(found["saves"]):
        share = one["above"] / one["wrote"]
        print(
            f"checkpoint {number}: {one['wrote'] / 1e6:.0f} MB written by rank 0, its memory "
            f"{one['above'] / 1e6:.0f} MB above the {one['held'] / 1e6:.0f} MB before: {share:.2f}"
        )


def measure(layers: int) -> None:
    from harness.system.ports import free_port
    from harness.workload.train import import_everything

    import_everything("cpu")
    folder = Path(tempfile.mkdtemp())
    run = make_run(folder, layers)
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    children = []
    for rank in range(WORLD):
        if pid := os.fork():
            children.append(pid)
            continue
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(WORLD), **place}
        code = 1
        try:
            be_rank(run, folder)
            code = 0
        finally:
            os._exit(code)
    for pid in children:
        _, status = os.waitpid(pid, 0)
        assert status == 0


def make_run(folder: Path, layers: int) -> Any:
    from harness.study import load_study

    hidden, vocabulary = 512, 256
    config = {
        "model_type": "llama",
        "vocab_size": vocabulary,
        "max_position_embeddings": 64,
        "num_hidden_layers": layers,
        "hidden_size": hidden,
        "intermediate_size": 4 * hidden // 3 // 16 * 16,
        "num_attention_heads": 8,
        "num_key_value_heads": 8,
        "tie_word_embeddings": False,
    }
    layer = 4 * hidden**2 + 3 * hidden * int(config["intermediate_size"]) + 2 * hidden  # type: ignore[call-overload]
    parameters = layers * layer + 2 * vocabulary * hidden + hidden
    (folder / "models").mkdir()
    (folder / "models" / "big.yaml").write_text(
        yaml.safe_dump({"source": "benchmark", "parameters": parameters, "config": config})
    )
    study = {
        "name": "checkpoint",
        "device": "cpu",
        "training": {"steps": 4, "sequence_length": 16, "micro_batch": 1},
        "matrix": {"model": "big", "variant": "zero3", "shape": "1x2"},
    }
    file = folder / "study.yaml"
    file.write_text(yaml.safe_dump(study))
    return load_study(file).runs[0]


def be_rank(run: Any, folder: Path) -> None:
    import deepspeed

    from harness.device import open_device
    from harness.workload.checkpoints import Checkpoints
    from harness.workload.engine import build_engine
    from harness.workload.rank import Rank
    from harness.workload.train import open_run_batches

    device, place = open_device(run.device), Rank.from_environment()
    deepspeed.init_distributed(dist_backend=device.backend, verbose=False)
    device.connect()
    engine, batches = build_engine(run, device), open_run_batches(run, place)
    saves = []
    for step in range(2):
        loss = engine(**batches.at(step, 0)).loss
        engine.backward(loss)
        engine.step()
        Path("/proc/self/clear_refs").write_text(CLEAR_PEAK)
        before = memory("VmRSS")
        Checkpoints(folder / "checkpoint", run).save(engine, step, "", place)
        tag = folder / "checkpoint" / f"step{step}"
        wrote = sum(f.stat().st_size for f in tag.iterdir() if f"rank_{place.rank}_" in f.name)
        saves.append({"held": before, "above": memory("VmHWM") - before, "wrote": wrote})
    if place.rank == 0:
        os.write(1, (json.dumps({"saves": saves}) + "\n").encode())


def memory(field: str) -> int:
    """Bytes of this process: VmRSS now, VmHWM at most."""
    found = re.search(rf"^{field}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found
    return int(found[1]) * 1024


if __name__ == "__main__":
    typer.run(main)
