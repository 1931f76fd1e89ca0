"""The tracing program: `python -m harness.simulate.record JOBS.json` with a variant's overlay first on the path.

Each job names a run (JSON) and where its trace goes. In a child process of its own, the run's DeepSpeed engine is built
on a device without memory (`harness.simulate.meta`), takes a few steps until the parameter prefetcher knows its order
and the timers are warm, and one step is recorded.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from deepspeed.accelerator import set_accelerator

from harness.device.stream_names import stream_names
from harness.device.streams import Machine, set_machine
from harness.device.torch_private import open_fake_world
from harness.simulate.meta import (
    BusyDevice,
    MetaAccelerator,
    MetaDispatcher,
    adopt,
    autocast_knows_meta,
    connect,
    use_memory,
)
from harness.simulate.recorder import Recorder
from harness.simulate.trace import Trace, from_rows, save
from harness.study import ModelFile, Run
from harness.system.imports import quick_imports
from harness.workload.models import build_model
from harness.workload.train import import_muon

WARM_UP_STEPS = (
    2  # the first learns the order of parameters; DeepSpeed's throughput timer starts with the third
)


def trace_run(run: Run) -> Trace:
    """Trace one steady step of the run in this process, whose `deepspeed` must be the variant's. Call it once."""
    started = time.perf_counter()
    shape = run.shape
    machine = Machine(BusyDevice())
    set_machine(machine)
    use_memory(machine)
    set_accelerator(MetaAccelerator(shape.ranks_per_node))
    connect_to_nobody(shape.world_size)
    dispatcher = MetaDispatcher(machine)
    recorder = Recorder(dispatcher)
    machine.observers.append(recorder)
    with autocast_knows_meta():
        engine, model = _engine(run, dispatcher, machine)
        with dispatcher:
            built = time.perf_counter()
            for _ in range(WARM_UP_STEPS):
                _step(engine, run, lambda: None)
            warm = time.perf_counter()
            recorder.start()
            shards: list[tuple[str, int]] = []
            _step(engine, run, lambda: shards.extend(secondary_storages(model)))
    seconds = {"build": built - started, "warm_up": warm - built, "step": time.perf_counter() - warm}
    return trace_from(recorder, run, machine, shards, seconds)


def trace_from(
    recorder: Recorder,
    run: Run,
    machine: Machine,
    shards: list[tuple[str, int]],
    seconds: dict[str, float],
) -> Trace:
    """What the recorder saw; `shards` are the storages of the secondary shards by parameter."""
    return from_rows(
        recorder.rows,
        names=list(recorder.names),
        sites=list(recorder.sites),
        groups=list(recorder.groups),
        streams=_stream_names(machine),
        secondaries=recorder.secondaries(shards),
        products=list(recorder.products),
        about=_about(run, recorder, seconds),
    )


def _about(run: Run, recorder: Recorder, seconds: dict[str, float]) -> dict[str, Any]:
    training = run.training
    tokens = training.micro_batch * training.sequence_length * training.gradient_accumulation
    return {
        "run_id": run.run_id,
        "model": run.model,
        "variant": run.variant,
        "shape": run.shape.model_dump(),
        "training": training.model_dump(mode="json"),
        "tokens": tokens * run.shape.world_size,
        "live_bytes": recorder.live_at_start,
        "trace_seconds": {name: round(value, 3) for name, value in seconds.items()},
        "trace_peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "torch": torch.__version__,
        "deepspeed": run.release,
    }


def connect_to_nobody(world_size: int) -> None:
    import deepspeed

    # DeepSpeed would compile it on the first init_distributed.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    open_fake_world(0, world_size)
    deepspeed.init_distributed(dist_backend="fake", verbose=False)


def _engine(run: Run, dispatcher: MetaDispatcher, machine: Machine) -> tuple[Any, torch.nn.Module]:
    import deepspeed

    connect(machine)
    deepspeed.utils.logger.setLevel("ERROR")
    trust_other_ranks()
    training = run.training
    model = build_model(
        ModelFile.model_validate(run.model_spec),
        dtype="bf16" if training.dtype == "bf16" else "fp32",
        activation_checkpointing=training.activation_checkpointing,
        device="meta",
    )
    with dispatcher:
        for tensor in (*model.parameters(), *model.buffers()):
            adopt(tensor)
        optimizer = torch.optim.AdamW(model.parameters(), lr=training.learning_rate, foreach=False)
        engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=dict(run.deepspeed))
    engine.train()
    return engine, model


def trust_other_ranks() -> None:
    """DeepSpeed's checks that all ranks pass the same integers have nobody to ask."""
    for name, module in list(sys.modules.items()):
        if name.startswith("deepspeed.") and hasattr(module, "assert_ints_same_as_other_ranks"):
            vars(module)["assert_ints_same_as_other_ranks"] = lambda ints: None


def _step(engine: Any, run: Run, before_update: Callable[[], None]) -> None:
    """One optimizer step, as harness.workload.train takes it."""
    training = run.training
    losses = []
    for micro in range(training.gradient_accumulation):
        host = torch.zeros(training.micro_batch, training.sequence_length, dtype=torch.long)
        tokens = host.to("meta", non_blocking=True)
        loss = engine(input_ids=tokens, labels=tokens).loss
        engine.backward(loss)
        if micro == training.gradient_accumulation - 1:
            before_update()
        engine.step()
        losses.append(loss.detach())
    torch.zeros(2)[0].copy_(sum(losses[1:], losses[0]) / len(losses), non_blocking=True)


def secondary_storages(model: torch.nn.Module) -> list[tuple[str, int]]:
    """(parameter, storage of its secondary shard) for those that have one now."""
    shards = ((name, getattr(p, "ds_secondary_tensor", None)) for name, p in model.named_parameters())
    return [(name, shard.untyped_storage().allocation.id) for name, shard in shards if shard is not None]


def _stream_names(machine: Machine) -> list[str]:
    names = stream_names(machine)
    return [names.get(stream.id) or f"stream {stream.id}" for stream in machine.streams]


def record_job(run_file: Path, trace_file: Path) -> None:
    """Trace one run in this process and save it."""
    run = Run.model_validate_json(run_file.read_text())
    os.environ.update(
        RANK="0",
        LOCAL_RANK="0",
        WORLD_SIZE=str(run.shape.world_size),
        LOCAL_SIZE=str(run.shape.ranks_per_node),
        CROSS_SIZE=str(run.shape.nodes),
        CROSS_RANK="0",
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT="29999",
    )
    save(trace_run(run), trace_file)


def _in_child(run_file: Path, trace_file: Path) -> bool:
    """Fork, so that imports are paid for once and a trace starts from a clean process."""
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1] == 0
    code = 1
    try:
        record_job(run_file, trace_file)
        code = 0
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # the fake group has no teardown


def main() -> None:
    """Prints `done TRACE` or `failed TRACE` after each job."""
    torch.set_num_threads(1)
    _import_for_children()
    for run_file, trace_file in json.loads(Path(sys.argv[1]).read_text()):
        good = _in_child(Path(run_file), Path(trace_file))
        print("done" if good else "failed", trace_file, flush=True)


def _import_for_children() -> None:
    with quick_imports():
        import transformers.models.falcon.modeling_falcon
        import transformers.models.llama.modeling_llama  # noqa: F401

        import_muon()


if __name__ == "__main__":
    main()
