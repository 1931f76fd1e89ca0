"""`python -m tests.deepspeed.device.virtual_ranks RUN_JSON POLICY...`: each policy on forked ranks of DeepSpeed.

Prints one JSON line per rank and policy: the collectives in the order in which they really started.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from harness.clock.policy import policy_named
from harness.device import Collective, Observer, OpRecord, open_device
from harness.study import Run
from harness.system.ports import Port
from harness.workload.engine import build_engine
from harness.workload.rank import Rank
from harness.workload.train import import_everything, open_run_batches

STEPS = 2


class Order(Observer):
    """Issued and started collectives, in order."""

    def __init__(self) -> None:
        self.known: dict[int, Collective] = {}
        self.started: list[str] = []

    def on_op(self, op: OpRecord) -> None:
        if op.collective is not None:
            self.known[op.index] = op.collective

    def on_run(self, index: int) -> None:
        if index in self.known:
            call = self.known[index]
            # Sibling groups do the same; only their size is common.
            self.started.append(f"{call.op} {len(call.ranks)} {call.nbytes}")


def be_rank(run: Run, policy: str) -> None:
    import deepspeed

    device = open_device("virtual", policy=policy_named(policy))
    deepspeed.init_distributed(dist_backend=device.backend, verbose=False)
    device.connect()
    order = Order()
    with device.activate():
        engine = build_engine(run, device)
        batches = open_run_batches(run, Rank.from_environment())
        device.observe(order)
        for step in range(STEPS):
            loss = engine(**{n: t.to(device.torch_device) for n, t in batches.at(step, 0).items()}).loss
            engine.backward(loss)
            engine.step()
    # One write, so that the lines of several ranks do not mix.
    os.write(1, (json.dumps({"policy": policy, "started": order.started}) + "\n").encode())
    torch.distributed.barrier()


def main() -> None:
    run = Run.model_validate(json.loads(Path(sys.argv[1]).read_text()))
    import_everything("virtual")
    for policy in sys.argv[2:]:
        fork_ranks(run.shape.world_size, partial(be_rank, run, policy))


def fork_ranks(world: int, work: Callable[[], None]) -> None:
    """Do `work` as each rank of a world of its own; exits where one of them fails."""
    with Port() as port:
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port.number), "WORLD_SIZE": str(world)}
        ranks = [fork_rank(rank, place, work) for rank in range(world)]
        if any(os.waitpid(pid, 0)[1] for pid in ranks):
            sys.exit(1)


def fork_rank(rank: int, place: dict[str, str], work: Callable[[], None]) -> int:
    pid = os.fork()
    if pid:
        return pid
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "LOCAL_SIZE": place["WORLD_SIZE"], **place}
    code = 1
    try:
        work()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


if __name__ == "__main__":
    main()
