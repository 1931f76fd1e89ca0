"""The recording program of the virtual device: `python -m harness.simulate.virtual RUN.json TRACE.npz`.

All ranks are forked here, real values move, and rank 0 records one step in the format of a trace.
"""

from __future__ import annotations

import os
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import torch

from harness.clock.products import Product
from harness.clock.timed import product_of
from harness.device import OpRecord, VirtualDevice, open_device
from harness.simulate.record import WARM_UP_STEPS, secondary_storages, trace_from
from harness.simulate.recorder import Recorder
from harness.simulate.trace import save
from harness.study import Run
from harness.system.ports import Port
from harness.workload.engine import build_engine
from harness.workload.rank import Rank
from harness.workload.train import import_everything, open_run_batches, policy_of


class VirtualRecorder(Recorder):
    """Takes arithmetic from shapes; operators without device work are not told by the virtual device."""

    def __init__(self) -> None:
        self.views, self.flops = 0, 0.0
        self.product: Product | None = None
        super().__init__(self)

    def on_op(self, op: OpRecord) -> None:
        self.product = product_of(op)
        self.flops = self.product.flops if self.product else 0.0
        super().on_op(op)


def record_rank(run: Run, trace_file: Path) -> None:
    """Be one rank: a few steps, then one that rank 0 records."""
    import deepspeed

    device = open_device("virtual", policy=policy_of(run), poison=run.poison)
    assert isinstance(device, VirtualDevice)
    deepspeed.init_distributed(dist_backend=device.backend, verbose=False)
    device.connect()
    place, recorder = Rank.from_environment(), VirtualRecorder()
    with device.activate():
        device.observe(recorder)
        engine = build_engine(run, device)
        batches = open_run_batches(run, place)
        shards: list[tuple[str, int]] = []
        for step in range(WARM_UP_STEPS + 1):
            if step == WARM_UP_STEPS:
                recorder.start()
            started = time.perf_counter()
            shards = _step(engine, run, batches, step, device)
    if place.rank == 0:
        seconds = {"step": time.perf_counter() - started}
        save(trace_from(recorder, run, device.machine, shards, seconds), trace_file)
    torch.distributed.barrier()


def _step(engine: Any, run: Run, batches: Any, step: int, device: VirtualDevice) -> list[tuple[str, int]]:
    """One optimizer step; returns the storages of the secondary shards, which last until the update."""
    shards: list[tuple[str, int]] = []
    for micro in range(run.training.gradient_accumulation):
        tensors = {name: t.to(device.torch_device) for name, t in batches.at(step, micro).items()}
        engine.backward(engine(**tensors).loss)
        shards = secondary_storages(engine.module)
        engine.step()
    return shards


def _fork_rank(run: Run, rank: int, port: int, trace_file: Path) -> int:
    child = os.fork()
    if child:
        return child
    place: dict[str, object] = {
        "RANK": rank,
        "LOCAL_RANK": rank % run.shape.ranks_per_node,
        "WORLD_SIZE": run.shape.world_size,
    }
    place |= {"LOCAL_SIZE": run.shape.ranks_per_node, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in place.items()})
    code = 1
    try:
        record_rank(run, trace_file)
        code = 0
    except BaseException:
        traceback.print_exc()
    sys.stderr.flush()
    os._exit(code)  # skips teardown, where gloo's threads may abort


def main() -> None:
    run, trace_file = Run.model_validate_json(Path(sys.argv[1]).read_text()), Path(sys.argv[2])
    if run.device != "virtual":
        run = run.model_copy(update={"device": "virtual", "policy": "eager", "poison": "nan"})
    import_everything("virtual")
    with Port() as port:
        ranks = [_fork_rank(run, rank, port.number, trace_file) for rank in range(run.shape.world_size)]
        codes = [os.waitpid(pid, 0)[1] for pid in ranks]
    sys.exit(1 if any(codes) else 0)


if __name__ == "__main__":
    main()
