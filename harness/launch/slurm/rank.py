"""One rank as srun starts it: takes its place from SLURM, checks it, and trains.

`python -m harness.launch.slurm.rank RUN_DIRECTORY UNTIL_STEP`. Exit code 0: the run is done, or its checkpoint at or
before that step waits; 2: bad input; 1: anything else.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import traceback
from collections.abc import Mapping
from dataclasses import dataclass

from harness.launch.slurm.container import VARIABLE as CONTAINED
from harness.record import RunDirectory
from harness.study import Run, Shape
from harness.system.errors import HarnessError
from harness.system.imports import quick_imports
from harness.system.parent import print_in_order
from harness.system.secrets import veil_output
from harness.variants import Variant, overlay_path


@dataclass(frozen=True)
class Place:
    """Where SLURM has put this rank."""

    rank: int
    local_rank: int
    world_size: int
    local_size: int
    node: int

    @classmethod
    def from_slurm(cls, variables: Mapping[str, str]) -> Place:
        """Read srun's variables. Raises HarnessError outside srun."""
        try:
            node = int(variables["SLURM_NODEID"])
            return cls(
                rank=int(variables["SLURM_PROCID"]),
                local_rank=int(variables["SLURM_LOCALID"]),
                world_size=int(variables["SLURM_NTASKS"]),
                local_size=tasks_on_nodes(variables["SLURM_STEP_TASKS_PER_NODE"])[node],
                node=node,
            )
        except KeyError as error:
            raise HarnessError(
                f"{error.args[0]} is not set: harness.launch.slurm.rank is started by srun alone"
            ) from error

    def variables(self) -> dict[str, str]:
        """The same place in the words that DeepSpeed reads."""
        return {
            "RANK": str(self.rank),
            "LOCAL_RANK": str(self.local_rank),
            "WORLD_SIZE": str(self.world_size),
            "LOCAL_SIZE": str(self.local_size),
        }


def tasks_on_nodes(text: str) -> list[int]:
    """SLURM's `2(x3),1` as tasks of each node: [2, 2, 2, 1]."""
    counts: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", part)
        if not match:
            raise HarnessError(f"SLURM_STEP_TASKS_PER_NODE: {text!r} is not of the form 2(x3),1")
        counts += [int(match[1])] * int(match[2] or 1)
    return counts


def check_placement(place: Place, shape: Shape, across_nodes: bool) -> None:
    """hpZ groups are contiguous ranks; refuse where that puts one across nodes unasked.

    Raises HarnessError with the cause. A shape whose hpz exceeds its ranks_per_node asks for it itself.
    """
    if place.world_size != shape.world_size:
        raise HarnessError(
            f"srun started {place.world_size} ranks, but the run's shape {shape} has {shape.world_size}"
        )
    expected = place.rank // shape.ranks_per_node
    if shape.hpz == 1 or shape.hpz > shape.ranks_per_node or across_nodes or place.node == expected:
        return
    raise HarnessError(
        f"rank {place.rank} is on node {place.node} of the allocation, not on node {expected}: contiguous ranks, "
        f"and so the hpZ groups of {shape.hpz}, do not stay inside nodes; start with srun --distribution=block, or "
        "set groups_across_nodes in the profile if it is meant"
    )


def log_to(directory: RunDirectory, rank: int) -> None:
    """Send everything that this rank prints to its own file."""
    directory.logs.mkdir(parents=True, exist_ok=True)
    file = os.open(directory.logs / f"rank-{rank}.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(file, 1)
    os.dup2(file, 2)
    print_in_order()
    veil_output()


def patched_here(run: Run) -> None:
    """In a container, make the run's patched DeepSpeed of the one that is there, and put it first. HarnessError."""
    if os.environ.get(CONTAINED):
        overlay = str(overlay_path(Variant.parse(run.variant), run.release))
        sys.path.insert(0, overlay)
        os.environ["PYTHONPATH"] = os.pathsep.join([overlay, os.environ.get("PYTHONPATH", "")])


def train(directory: RunDirectory, until: int) -> None:
    with quick_imports():
        from harness.workload.session import Preempted
        from harness.workload.train import run_rank

    try:
        run_rank(directory.path, until)
    except Preempted as stopped:
        print(stopped)
        import torch

        # The first rank to leave must not take down others that are still writing.
        torch.distributed.barrier()


def listen() -> None:
    """Ask for a stop, never die of one: SLURM's SIGTERM (cancelled, requeued, preempted) means the same as SIGUSR1.

    Until the training loop listens to it SIGUSR1 is dropped; it is sent again until the rank has ended.
    """
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGUSR1))


def main() -> None:
    listen()
    code = 1
    try:
        directory = RunDirectory(sys.argv[1])
        place = Place.from_slurm(os.environ)
        log_to(directory, place.rank)
        run = directory.run()
        check_placement(place, run.shape, bool(os.environ.get("HPZ_GROUPS_ACROSS_NODES")))
        patched_here(run)
        os.environ.update(place.variables())
        train(directory, int(sys.argv[2]))
        code = 0
    except HarnessError as error:
        print(f"hpz: {error}", file=sys.stderr)
        code = 2
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        # Skips interpreter teardown, where gloo's threads may abort a process whose work is complete.
        os._exit(code)


if __name__ == "__main__":
    main()
