"""The measuring program of `hpz calibrate`: `python -m harness.simulate.measure kernels|steps OUT.json [RUNS.json]`.

`kernels` times matrix products and copies on this machine's CPU, and on a GPU where there is one, with what the host
spends on its launches, events and waits; `steps` times real optimizer steps of tiny models, in which the host is all
that counts: DeepSpeed's own CPU path, the fake process group in the place of a network.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from harness.study import Run

REPEATS = 7
WARM_UP, MEASURED = 3, 12
MATMULS = [(64, 64, 64), (128, 128, 128), (256, 256, 256), (512, 512, 512), (768, 768, 768), (384, 1024, 512)]
HELD_OUT_MATMULS = [(192, 192, 192), (640, 640, 640), (1024, 256, 768)]
COPIES = [2**12, 2**16, 2**20, 2**23, 2**25]  # bytes
HELD_OUT_COPIES = [2**18, 2**22, 2**24]
ON_GPU = 8  # sizes grow by this factor where there is a GPU
ISSUED = 400  # calls in a row: fewer than CUDA queues before it makes the host wait
PINNED_BYTES = 2**26


def best_seconds(run: Callable[[], object], device: str) -> float:
    """Best of some repeats, each of enough calls to be measurable: what else runs here can only make it slower.

    On the CPU, seconds that this process has computed: what else runs there counts little. On a GPU, the wall's.
    """
    clock, wait = (
        (time.perf_counter, torch.cuda.synchronize) if device == "cuda" else (time.process_time, _nothing)
    )
    run()
    wait()
    calls = 1
    while True:
        started = clock()
        for _ in range(calls):
            run()
        wait()
        if (passed := clock() - started) > 2e-3:
            break
        calls = max(2 * calls, int(calls * 3e-3 / max(passed, 1e-6)))
    times = []
    for _ in range(REPEATS):
        started = clock()
        for _ in range(calls):
            run()
        wait()
        times.append((clock() - started) / calls)
    return min(times)


def measure_machine() -> dict[str, Any]:
    """The CPU's kernels; and a GPU's, with what it costs its host, where there is one (else None)."""
    gpu = torch.cuda.is_available()
    return {
        "cpu": measure_kernels("cpu"),
        "gpu": measure_kernels("cuda") if gpu else None,
        "gpu_costs": measure_gpu() if gpu else None,
    }


def measure_kernels(device: str) -> dict[str, Any]:
    """Seconds of products and copies on a device, some of them held out from the fit."""
    dtype, factor = (torch.bfloat16, ON_GPU) if device == "cuda" else (torch.float32, 1)
    samples = []
    for held_out, shapes in ((False, MATMULS), (True, HELD_OUT_MATMULS)):
        for m, k, n in ((m * factor, k * factor, n * factor) for m, k, n in shapes):
            a, b = torch.ones(m, k, dtype=dtype, device=device), torch.ones(k, n, dtype=dtype, device=device)
            out = torch.empty(m, n, dtype=dtype, device=device)
            seconds = best_seconds(lambda a=a, b=b, out=out: torch.mm(a, b, out=out), device)  # type: ignore[misc]
            moved = (m * k + k * n + m * n) * a.element_size()
            samples.append(_sample(f"mm {m}x{k}x{n}", 2.0 * m * k * n, moved, seconds, held_out))
    for held_out, sizes in ((False, COPIES), (True, HELD_OUT_COPIES)):
        for size in (size * factor for size in sizes):
            source = torch.zeros(size, dtype=torch.uint8, device=device)
            target = torch.empty_like(source)
            seconds = best_seconds(lambda s=source, t=target: t.copy_(s), device)  # type: ignore[misc]
            samples.append(_sample(f"copy {size} B", 0.0, 2 * size, seconds, held_out))
    return {"device": torch.cuda.get_device_name() if device == "cuda" else "cpu", "samples": samples}


def measure_gpu() -> dict[str, float]:
    """What a GPU costs its host, seconds a call; copies between them, bytes a second of pinned memory; its memory."""
    x, stream = torch.zeros(1, device="cuda"), torch.cuda.current_stream()
    event = torch.cuda.Event()
    host = torch.empty(PINNED_BYTES, dtype=torch.uint8, pin_memory=True)
    device = torch.empty(PINNED_BYTES, dtype=torch.uint8, device="cuda")

    def record_and_wait() -> None:
        event.record(stream)
        stream.wait_event(event)

    return {
        "launch_seconds": issue_seconds(lambda: x.add_(1)),
        "event_seconds": issue_seconds(record_and_wait) / 2,
        "sync_seconds": issue_seconds(stream.synchronize),
        "memory_bytes": float(torch.cuda.get_device_properties(0).total_memory),
        "to_host_bandwidth": PINNED_BYTES / device_seconds(lambda: host.copy_(device, non_blocking=True), 4),
        "to_device_bandwidth": PINNED_BYTES
        / device_seconds(lambda: device.copy_(host, non_blocking=True), 4),
    }


def issue_seconds(call: Callable[[], object]) -> float:
    """Seconds of the host for one call, the best of some repeats; the device is idle before each of them."""
    times = []
    for _ in range(REPEATS):
        torch.cuda.synchronize()
        started = time.perf_counter()
        for _ in range(ISSUED):
            call()
        times.append((time.perf_counter() - started) / ISSUED)
    torch.cuda.synchronize()
    return min(times)


def device_seconds(call: Callable[[], object], calls: int) -> float:
    """Seconds of the device for one of `calls` in a row by CUDA events, the best of some repeats."""
    before, after = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    times = []
    for _ in range(REPEATS):
        before.record()
        for _ in range(calls):
            call()
        after.record()
        after.synchronize()
        times.append(before.elapsed_time(after) / 1e3 / calls)
    return float(min(times))


def _sample(name: str, flops: float, moved: int, seconds: float, held_out: bool) -> dict[str, Any]:
    return {"name": name, "flops": flops, "bytes": moved, "seconds": seconds, "held_out": held_out}


def _nothing() -> None:
    return None


def measure_step(run: Run) -> float:
    """Seconds of one step of the run in this process, the best of some. Call it once a process."""
    from harness.device import open_process_device
    from harness.study import ModelFile
    from harness.workload.models import build_model

    open_process_device("cpu")
    import deepspeed

    from harness.simulate.record import connect_to_nobody, trust_other_ranks

    connect_to_nobody(run.shape.world_size)
    trust_other_ranks()
    deepspeed.utils.logger.setLevel("ERROR")
    model = build_model(ModelFile.model_validate(run.model_spec), dtype="fp32")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, foreach=False)
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=dict(run.deepspeed))
    engine.train()
    times = []
    for _ in range(WARM_UP + MEASURED):
        started = time.process_time()
        for _ in range(run.training.gradient_accumulation):
            tokens = torch.zeros(run.training.micro_batch, run.training.sequence_length, dtype=torch.long)
            engine.backward(engine(input_ids=tokens, labels=tokens).loss)
            engine.step()
        times.append(time.process_time() - started)
    return min(times[WARM_UP:])


def measure_steps(runs: list[Run]) -> list[float]:
    """Seconds of a step for each run, each in a child process of its own."""
    from harness.device import open_process_device

    open_process_device(
        "cpu"
    )  # before DeepSpeed looks for an accelerator: steps are the host's, also beside a GPU
    import deepspeed.runtime.zero.stage3  # noqa: F401  # imported once for all children
    import transformers.models.falcon.modeling_falcon
    import transformers.models.llama.modeling_llama  # noqa: F401

    found = []
    for run in runs:
        reader, writer = os.pipe()
        if os.fork() == 0:
            os.environ.update(
                RANK="0", LOCAL_RANK="0", WORLD_SIZE=str(run.shape.world_size), MASTER_ADDR="127.0.0.1"
            )
            os.environ.update(LOCAL_SIZE=str(run.shape.ranks_per_node), MASTER_PORT="29999")
            try:
                os.write(writer, repr(measure_step(run)).encode())
            finally:
                os._exit(0)
        os.close(writer)
        os.wait()
        text = os.read(reader, 64).decode()
        os.close(reader)
        found.append(float(text) if text else float("nan"))
    return found


def main() -> None:
    torch.set_num_threads(1)
    what, output = sys.argv[1], Path(sys.argv[2])
    if what == "kernels":
        output.write_text(json.dumps(measure_machine()))
        return
    runs = [Run.model_validate(entry) for entry in json.loads(Path(sys.argv[3]).read_text())]
    output.write_text(json.dumps(measure_steps(runs)))


if __name__ == "__main__":
    main()
