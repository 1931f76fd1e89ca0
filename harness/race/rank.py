"""One rank of a job: opens the virtual device, attaches the watchers, runs the program, writes what they saw."""

from __future__ import annotations

import contextlib
import gc
import hashlib
import json
import runpy
import sys
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from harness.device import Device, DeviceError, MixedDevices, VirtualDevice, as_cuda, open_device, open_process_device
from harness.device.stream_names import stream_names
from harness.race.adapt import adapt_deepspeed, adapt_hugging_face
from harness.race.findings import Costs, shortened
from harness.race.happens_before import Analysis
from harness.race.job import Job
from harness.race.merge import rank_report, traced
from harness.race.names import Namer, roots
from harness.race.policy import policy_of
from harness.race.watch import CollectiveLog, Excerpt, Watcher
from harness.record import RunDirectory
from harness.system.errors import HarnessError


def import_everything(with_transformers: bool, map_cuda: bool = False) -> None:
    """Import what ranks need, so that they can be forked warm; the accelerator is in place before any user's import."""
    if map_cuda:
        as_cuda.map_cuda()
    if with_transformers:
        from harness.workload.train import import_everything

        import_everything("virtual")
        return
    torch.set_num_threads(1)
    open_process_device("virtual")
    import deepspeed

    deepspeed.utils.logger.setLevel("WARNING")


def run_job(folder: Path, rank: int) -> None:
    """Run the job of a folder as this rank and write rank-N.json there. Raises what the program raises."""
    job = Job.parse(json.loads((folder / "job.json").read_text()))
    watch = Watch(job, folder, rank)
    digest = None
    try:
        run = train if job.program.run is not None else run_script
        digest = run(job, watch)
    except HarnessError as error:
        (folder / f"refused-{rank}.txt").write_text(str(error))
        raise
    finally:
        watch.write(digest)


class Watch:
    """The observers of one rank, attached once the device is open."""

    def __init__(self, job: Job, folder: Path, rank: int) -> None:
        self.job, self.folder, self.rank = job, folder, rank
        self.namer = Namer()
        self.analysis = Analysis(self.namer, self.namer.step, on_new=lambda finding: self.name_streams())
        self.streams: dict[int, str] = {}
        self.excerpt: Excerpt | None = None
        self.device: VirtualDevice | None = None
        self.began = False
        self.steps: int | None = None

    def attach(self, device: Device) -> None:
        assert isinstance(device, VirtualDevice)
        self.device = device
        if self.job.analyse:
            device.observe(CollectiveLog(self.folder / f"collectives-{self.rank}.txt"))
            device.observe(Watcher(self.analysis))
        if self.job.excerpt and self.rank == 0:
            flip = self.job.flips[0]
            self.excerpt = Excerpt(flip.hold, flip.until, self.name_streams)
            device.observe(self.excerpt)

    def begin(self) -> None:
        """The engine stands and training begins (after a pause, again): what start-up waited for is no step's cost."""
        if not self.began:
            self.began = True
            self.analysis.costs = Costs(ops=self.analysis.costs.ops)

    @property
    def device_ops(self) -> int:
        return 0 if self.device is None else self.device.machine.ops

    def name_streams(self) -> None:
        """Now, while the program that holds them is alive."""
        assert self.device is not None
        self.streams = stream_names(self.device.machine.streams) | self.streams

    def write(self, digest: str | None) -> None:
        report = rank_report(self.rank, self.analysis, self.streams, steps=self.steps, digest=digest)
        content: dict[str, Any] = {"report": report.model_dump(mode="json")}
        if self.excerpt is not None:
            marks = [traced(mark, self.streams) for mark in shortened(self.excerpt.marks)]
            content |= {"window": [mark.model_dump() for mark in marks], "order": self.excerpt.order}
        (self.folder / f"rank-{self.rank}.json").write_text(json.dumps(content))


def train(job: Job, watch: Watch) -> str:
    """The training of a run, as `hpz run` does it; returns the digest of all ranks' shards."""
    from harness.workload.train import run_rank

    directory = RunDirectory(watch.folder / "run")
    run_rank(directory.path, opened=watch.attach, policy=policy_of(job, watch.begin))
    final = directory.status().final
    assert final is not None
    return final.shards_sha256


def run_script(job: Job, watch: Watch) -> str:
    """A user's script, as `python script.py arguments` runs it; returns the digest of its final values."""
    program = job.program
    assert program.script is not None
    device = open_device("virtual", policy=policy_of(job, watch.begin), poison=job.poison)
    watch.attach(device)
    adapt_deepspeed(device, program)
    count_steps(watch)
    adapt_hugging_face()
    script = Path(program.script).resolve()
    sys.argv = [str(script), *program.arguments]
    sys.path.insert(0, str(script.parent))
    names: Mapping[str, Any] = {}
    with device.activate():
        device.use_policy()
        with contextlib.suppress(_CleanExit), _explained(script):
            names = runpy.run_path(str(script), run_name="__main__")
        device.synchronize()
    if not watch.device_ops:
        raise HarnessError(
            f"{script.name} ran no op on the virtual device, so nothing was analysed: {ADVICE}"
        )
    return digest_of(names)


def count_steps(watch: Watch) -> None:
    """Count optimizer steps as they are made: the engine may be gone by the time that its script has ended."""
    from deepspeed.runtime.engine import DeepSpeedEngine

    take_step, watch.steps = DeepSpeedEngine._take_model_step, 0

    def counted(engine: Any, *args: Any, **kwargs: Any) -> None:
        take_step(engine, *args, **kwargs)
        watch.steps = int(engine.global_steps)

    DeepSpeedEngine._take_model_step = counted


class _CleanExit(Exception):
    """The script ended itself with exit code 0."""


@contextlib.contextmanager
def _explained(script: Path) -> Iterator[None]:
    """Raises HarnessError for what cannot work here, with the line of the script that asks for it."""
    try:
        yield
    except SystemExit as stop:
        if stop.code in (None, 0):
            raise _CleanExit from None
        raise
    except MixedDevices as error:
        raise HarnessError(
            f"{place_in(script, error)} computes with host and device tensors together: {ADVICE}"
        ) from error
    except (AssertionError, RuntimeError, AttributeError, NotImplementedError) as error:
        if not any(sign in str(error) for sign in CUDA_SIGNS):
            raise
        raise HarnessError(
            f"{place_in(script, error)} asks for CUDA by name, and this analysis runs on the virtual device: {ADVICE}"
        ) from error


CUDA_SIGNS = ("CUDA", "cuda", "NVIDIA", "nccl", "NCCL", "dummy base class")  # the last: torch.cuda.Event()
ADVICE = (
    "take device, streams and events from deepspeed.accelerator.get_accelerator() (current_device_name(), Stream, "
    "Event), which is CUDA on a GPU and the virtual device here; torch.cuda.is_available() is False here"
)


def place_in(script: Path, error: BaseException) -> str:
    """The innermost line of the script and its neighbours that an error came through."""
    frames = traceback.extract_tb(error.__traceback__)
    mine = [frame for frame in frames if Path(frame.filename).parent == script.parent]
    return f"{Path(mine[-1].filename).name}:{mine[-1].lineno} ({mine[-1].line})" if mine else script.name


def digest_of(names: Mapping[str, Any]) -> str:
    """Hash of this rank's final values: parameters or their shards, and the script's global numbers and tensors."""
    gc.collect()
    parts = [_digest_module(module) for module in roots()]
    for name, value in sorted(names.items()):
        if isinstance(value, torch.Tensor):
            parts.append(f"{name} {_digest_tensor(value)}")
        elif isinstance(value, int | float | list | tuple) and not name.startswith("_"):
            parts.append(f"{name} {_plain(value)}")
    return hashlib.sha256("\n".join(sorted(parts)).encode()).hexdigest()


def _digest_module(module: torch.nn.Module) -> str:
    shards = (
        f"{name} {_digest_tensor(shard if (shard := getattr(p, 'ds_tensor', None)) is not None else p.data)}"
        for name, p in sorted(module.named_parameters())
    )
    return hashlib.sha256("\n".join(shards).encode()).hexdigest()


def _digest_tensor(tensor: torch.Tensor) -> str:
    flat = tensor.detach().contiguous().reshape(-1)
    return hashlib.sha256(flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b"").hexdigest()


def _plain(value: Any) -> str:
    if isinstance(value, list | tuple):
        return f"[{', '.join(_plain(item) for item in value)}]"
    if isinstance(value, torch.Tensor):
        return _digest_tensor(value)
    return repr(value) if isinstance(value, int | float | str) else type(value).__name__
