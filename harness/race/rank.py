"""One rank of a job: opens the virtual device, attaches the watchers, runs the program, writes what they saw."""

from __future__ import annotations

import contextlib
import functools
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

from harness.device import Device, VirtualDevice, as_cuda, open_device, open_process_device
from harness.device.stream_names import stream_names
from harness.race.adapt import MET, adapt_deepspeed, adapt_libraries, adapt_torch
from harness.race.digest import digest_of, values_left
from harness.race.ends import ends_written, leave, meet_again, write_when_asked
from harness.race.findings import Costs, shortened
from harness.race.happens_before import Analysis
from harness.race.job import Job
from harness.race.merge import rank_report, traced
from harness.race.names import Namer
from harness.race.native import hide_native
from harness.race.own_ranks import OwnRanks
from harness.race.pairs import Pairs
from harness.race.policy import policy_of
from harness.race.reads import Reader
from harness.race.report import TRAINED_NOTHING, Coverage, Place, Unseen
from harness.race.script import ADVICE, MAPPED_ADVICE, CleanExit, Main
from harness.race.sites import visible
from harness.race.unseen import libraries, native_libraries
from harness.race.values import Values
from harness.race.watch import CollectiveLog, Excerpt, Order, Watcher
from harness.record import RunDirectory
from harness.system.errors import HarnessError
from harness.system.whole_file import write_text_whole


def import_everything(with_transformers: bool, map_cuda: bool = False) -> None:
    """Import what ranks need, so that they can be forked warm; the accelerator is in place before any user's import."""
    if map_cuda:
        hide_native()
        as_cuda.map_cuda()
    if with_transformers:
        from harness.workload.train import import_everything

        import_everything("virtual")
        return
    torch.set_num_threads(1)
    open_process_device("virtual")
    import deepspeed

    from harness.workload.train import import_muon

    deepspeed.utils.logger.setLevel("WARNING")
    import_muon()


def run_job(folder: Path, rank: int) -> None:
    """Run the job of a folder as this rank and write rank-N.json there. Raises what the program raises."""
    job = Job.parse(json.loads((folder / "job.json").read_text()))
    watch = Watch(job, folder, rank)
    if job.program.run is None:
        write_when_asked(watch)
    digest = None
    try:
        run = train if job.program.run is not None else run_script
        digest = run(job, watch)
    except HarnessError as error:
        watch.refuse(error)
        raise
    finally:
        watch.write(digest)


class Watch:
    """The observers of one rank, attached once the device is open; `name` is that of its files, else the rank."""

    def __init__(self, job: Job, folder: Path, rank: int, name: str | None = None) -> None:
        self.job, self.folder, self.rank = job, folder, rank
        self.name = name or str(rank)
        self.namer = Namer()
        self.pairs = Pairs() if job.every else None
        self.analysis = Analysis(
            self.namer, self.namer.step, on_new=lambda finding: self.name_streams(), pairs=self.pairs
        )
        self.watcher = Watcher(self.analysis, rank)
        self.libraries = libraries()
        self.streams: dict[int, str] = {}
        self.excerpt: Excerpt | None = None
        self.order: Order | None = None
        self.device: VirtualDevice | None = None
        self.began = False
        self.steps: int | None = None
        self.engines = 0
        self.reader = Reader()
        self.left = True  # whether the digest holds a model or a tensor on the device

    def attach(self, device: Device) -> None:
        assert isinstance(device, VirtualDevice)
        self.device = device
        if self.job.analyse:
            device.observe(CollectiveLog(self.folder / f"collectives-{self.name}.txt"))
            device.observe(self.watcher)
        if self.job.excerpt and self.rank == 0:
            flip = self.job.flips[0]
            self.order = self.excerpt = Excerpt(flip.hold, flip.until, self.name_streams)
            device.observe(self.excerpt)
        elif self.job.order and self.rank == 0:
            self.order = Order()
            device.observe(self.order)
        if self.job.values:
            device.observe(Values(self.folder / f"values-{self.name}.txt", device.machine))

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
        self.streams = stream_names(self.device.machine) | self.streams

    def coverage(self) -> Coverage:
        """How much of what this rank did was seen."""
        machine, watcher = None if self.device is None else self.device.machine, self.watcher
        unseen = [] if machine is None else machine.unseen.most_common()
        return Coverage(
            device_ops=self.analysis.costs.ops - watcher.host_accesses,
            host_accesses=watcher.host_accesses,
            collectives=watcher.collectives,
            streams=0 if machine is None else sum(stream.issued > 0 for stream in machine.streams),
            host_threads=self.analysis.clocks.host_threads,
            unseen=tuple(
                Unseen(what=what, place=next(map(Place.of, visible(site.stack, 1)), None), count=count)
                for (what, site), count in unseen
            ),
            native=native_libraries(self.libraries),
        )

    def write(self, digest: str | None) -> None:
        report = rank_report(
            self.rank, self.analysis, self.streams, self.coverage(), steps=self.steps, digest=digest
        )
        found = {"problem": self.problem(digest), "left": self.left, "reads": self.reader.reads()}
        report = report.model_copy(update=found)
        content: dict[str, Any] = {"report": report.model_dump(mode="json"), "issued": self.device_ops}
        if self.order is not None:
            content["order"] = self.order.order
        if self.excerpt is not None:
            marks = [traced(mark, self.streams) for mark in shortened(self.excerpt.marks)]
            content["window"] = [mark.model_dump() for mark in marks]
        if self.pairs is not None:
            content |= self.pairs.content()
        write_text_whole(self.folder / f"rank-{self.name}.json", json.dumps(content))

    def refuse(self, error: HarnessError) -> None:
        """Say why this program cannot run here."""
        (self.folder / f"refused-{self.rank}.txt").write_text(str(error))

    def problem(self, digest: str | None) -> str | None:
        """Why a script that came to its end says nothing about training; None where that is not so."""
        if self.job.program.run is not None or digest is None:
            return None
        if self.engines and not self.steps:
            return f"{TRAINED_NOTHING}, but it took no optimizer step: nothing of training was analysed"
        if self.job.program.ranks > 1 and not MET:
            return "the ranks never met (no process group was made): each ran alone, as the only one"
        return None


def train(job: Job, watch: Watch) -> str:
    """The training of a run, as `hpz run` does it; returns the digest of all ranks' shards."""
    from harness.workload.train import run_rank

    directory = RunDirectory(watch.folder / "run")
    run_rank(directory.path, opened=watch.attach, policy=policy_of(job, watch.begin))
    final = directory.status().final
    assert final is not None
    return final.shards_sha256


def run_script(job: Job, watch: Watch) -> str:
    """A user's script or module, as Python and a launcher run it; returns the digest of its final values."""
    program = job.program
    device = open_device("virtual", policy=policy_of(job, watch.begin), poison=job.poison)
    assert isinstance(device, VirtualDevice)
    watch.attach(device)
    adapt_deepspeed(device, program)
    adapt_libraries(program.map_cuda)
    adapt_torch(device, program.map_cuda)
    own = OwnRanks(program.ranks)
    own.follow()
    main = Main(program)
    device.machine.reader = watch.reader

    def final() -> str:
        """The digest, once the device is done."""
        device.machine.finish()
        if not watch.device_ops:
            advice = own.too_few() or (MAPPED_ADVICE if program.map_cuda else ADVICE)
            raise HarnessError(
                f"{program.title} ran no op on the virtual device, so nothing was analysed: {advice}"
            )
        digest = digest_of(main.names, job.numbers)
        watch.left = values_left(main.names)
        return digest

    def enough() -> None:
        """The steps that were asked for are made: whatever the script would do next, it ends here."""
        digest = final()
        meet_again()
        watch.write(digest)
        leave()

    count_steps(watch, program.steps, enough)
    with device.activate(), ends_written(watch, final):
        device.use_policy()
        with contextlib.suppress(CleanExit):
            main.run()
        device.synchronize()
    return final()


def count_steps(watch: Watch, limit: int | None, enough: Callable[[], None]) -> None:
    """Count optimizer steps as they are made: the engine may be gone by the time that its script has ended.

    They are DeepSpeed's, or where a script makes no engine, those of torch's optimizers. Once `limit` steps are made,
    `enough` is called where a training loop gets control back.
    """
    from deepspeed.runtime.engine import DeepSpeedEngine
    from deepspeed.runtime.pipe.engine import PipelineEngine

    take_step, initialise, watch.steps = DeepSpeedEngine._take_model_step, DeepSpeedEngine.__init__, 0

    def counted(engine: Any, *args: Any, **kwargs: Any) -> None:
        take_step(engine, *args, **kwargs)
        watch.steps = int(engine.global_steps)

    def made(engine: Any, *args: Any, **kwargs: Any) -> None:
        watch.engines += 1
        initialise(engine, *args, **kwargs)

    DeepSpeedEngine._take_model_step, DeepSpeedEngine.__init__ = counted, made
    each = Counter[int]()

    def stepped(optimizer: Any, *_: Any) -> None:
        if not watch.engines:
            each[id(optimizer)] += 1
            watch.steps = max(each.values())
            if limit is not None and watch.steps >= limit:
                enough()

    register_optimizer_step_post_hook(stepped)
    for engine, method in ((DeepSpeedEngine, "step"), (PipelineEngine, "train_batch")):
        setattr(engine, method, _until(getattr(engine, method), watch, limit, enough))


def _until(
    method: Callable[..., Any], watch: Watch, limit: int | None, enough: Callable[[], None]
) -> Callable[..., Any]:
    @functools.wraps(method)
    def call(*args: Any, **kwargs: Any) -> Any:
        result = method(*args, **kwargs)
        if limit is not None and (watch.steps or 0) >= limit:
            enough()
        return result

    return call
