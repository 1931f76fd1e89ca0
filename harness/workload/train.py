"""The rank program: deepspeed.initialize and a plain loop, the same for the cpu, virtual and cuda devices.

A rank is started with RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT set, in a process whose first
`deepspeed` on the path is the variant's overlay: `python -m harness.workload.train RUN_DIRECTORY`. Recording never
makes the host wait inside a step: scalars travel to pinned memory and are read once their event has passed.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from harness.clock.policy import policy_named
from harness.device import Device, Policy, open_device, open_process_device
from harness.device.witness import VARIABLE, open_witness
from harness.record import RunDirectory
from harness.record.environment import installed_packages, record_environment
from harness.study import ModelFile, Run
from harness.system.errors import HarnessError
from harness.system.imports import quick_imports
from harness.system.secrets import veil_output
from harness.workload.batches import Batches, open_batches, open_validation
from harness.workload.engine import build_engine, check_evidence
from harness.workload.prefetch import Prefetched
from harness.workload.rank import Rank
from harness.workload.session import Preempted, Session, StopRequest


def import_everything(kind: str) -> None:
    """Import what a rank of this device kind needs, so that it can be forked warm. Torch must stay single-threaded."""
    torch.set_num_threads(1)
    with quick_imports():
        open_process_device(kind)
        import deepspeed
        import transformers.models.falcon.modeling_falcon
        import transformers.models.llama.modeling_llama  # noqa: F401

        deepspeed.utils.logger.setLevel("WARNING")
        import_muon()
    installed_packages()  # kept, so that no rank that is forked looks again


def import_muon() -> None:
    """Import what newer releases of DeepSpeed import when an engine is built, and so in every rank anew.

    No run uses Muon, whose functions ask for torch's compiler as they are defined: one that does not generate code is
    imported in a fraction of the time.
    """
    with contextlib.suppress(AttributeError):  # of older releases of torch
        torch.compiler.set_default_backend("eager")
    with contextlib.suppress(ImportError):
        import deepspeed.runtime.zero.muon.muon_optimizer  # noqa: F401


def run_rank(
    path: Path,
    until: int | None = None,
    opened: Callable[[Device], None] = lambda device: None,
    policy: Policy | None = None,
) -> None:
    """Train the run of directory `path` to its end, or to step `until`, as the rank that the environment names.

    `opened` is called with the device before anything uses it; `policy` orders it in place of the run's own.
    Raises Preempted where it stops early, its checkpoint written.
    """
    directory = RunDirectory(path)
    run, place = directory.run(), Rank.from_environment()
    import_everything(run.device)
    if place.rank == 0:
        record_environment(directory, torch_versions())
    device = open_device(
        run.device,
        policy=policy or policy_of(run),
        poison=run.poison,
        stall_us=run.stall_us,
        one_gpu=run.virtual_nodes,
    )
    check_evidence(run, device.backend)
    opened(device)
    stop = StopRequest()
    device.rendezvous()
    device.connect()
    torch.manual_seed(run.seed)
    with (
        open_witness(os.environ.get(VARIABLE), path, place.rank, run.training.steps) as witness,
        device.activate(),
    ):
        held_out = open_run_validation(run, place)
        engine = build_engine(run, device)
        with prefetched(open_run_batches(run, place), run, device) as batches:
            session = Session(run, directory, place, device, engine, batches, stop, held_out)
            session.train(until or run.training.steps, witness)
        score = session.evaluate()
        device.synchronize()
    session.finish(score)
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def torch_versions() -> dict[str, str | None]:
    """Versions that torch was built with, or has found; None of what it lacks."""
    cuda = torch.version.cuda
    nccl = ".".join(map(str, torch.cuda.nccl.version())) if cuda and torch.cuda.is_available() else None
    cudnn = str(torch.backends.cudnn.version()) if cuda else None
    return {"torch": torch.__version__, "cuda": cuda, "nccl": nccl, "cudnn": cudnn}


def policy_of(run: Run) -> Policy | None:
    """The policy that the run names; None on a device that orders its work itself. Raises HarnessError."""
    return policy_named(run.policy, run.seed) if run.device == "virtual" else None


def open_run_batches(run: Run, place: Rank) -> Batches:
    """This rank's token batches; they depend on seed and layout alone, never on the variant."""
    return open_batches(
        run.data,
        run.training,
        vocab_size=_vocabulary(run),
        world_size=place.world_size,
        rank=place.rank,
        seed=run.seed,
    )


def open_run_validation(run: Run, place: Rank) -> Batches | None:
    """This rank's held-out batches; None where the run measures no validation loss."""
    if not run.training.validate_every:
        return None
    return open_validation(
        run.data,
        run.training,
        vocab_size=_vocabulary(run),
        world_size=place.world_size,
        rank=place.rank,
    )


@contextlib.contextmanager
def prefetched(batches: Batches, run: Run, device: Device) -> Iterator[Batches]:
    """The batches, made ready by a thread beside the steps; as they are on the virtual device, which must repeat."""
    if device.kind == "virtual":
        yield batches
        return
    from deepspeed.accelerator import get_accelerator

    def begin() -> None:
        if device.kind == "cuda":
            torch.cuda.set_device(device.torch_device)  # pinning would make a context on the first GPU

    with Prefetched(
        batches,
        accumulation=run.training.gradient_accumulation,
        steps=run.training.steps,
        pin=get_accelerator().pin_memory,
        begin=begin,
    ) as ready:
        yield ready


def _vocabulary(run: Run) -> int:
    return ModelFile.model_validate(run.model_spec).config.vocab_size


def main() -> None:
    """`python -m harness.workload.train DIRECTORY [UNTIL_STEP]`; exit code 75: try again, a checkpoint waits."""
    veil_output()
    code = 1
    try:
        run_rank(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else None)
        code = 0
    except Preempted as stopped:
        print(stopped)
        code = os.EX_TEMPFAIL
    except HarnessError as error:
        print(f"hpz: {error}", file=sys.stderr)
        code = 2
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # skips teardown, where gloo's threads may abort a process whose work is complete


if __name__ == "__main__":
    main()
