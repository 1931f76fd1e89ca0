"""Starts the ranks of one program after another from a warm process, and says clearly when they do not end.

`Ranks` keeps a process that has imported torch and one DeepSpeed overlay (`python -m harness.race.server`); each job
forks its ranks from it. A job is a folder: job.json goes in, rank-N.json and log-N.txt come out.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from harness.race.report import RankReport, Trace
from harness.record.directory import RunDirectory
from harness.study.study import Run
from harness.system.errors import HarnessError, RunFailed
from harness.system.places import REPOSITORY
from harness.system.ports import free_port
from harness.variants import Variant, overlay_path

STALL_SECONDS = 30.0  # no rank has used the processor for so long: they wait for each other
FIRST_STALL_SECONDS = (
    120.0  # the same while nobody knows yet for how long the program itself sleeps or downloads
)
TIMEOUT_SECONDS = 600.0


@dataclass(frozen=True)
class Program:
    """What the ranks run: a run of a study, or a script with its arguments, on one DeepSpeed."""

    ranks: int
    run: dict[str, Any] | None = None  # as in run.json; its policy and poison are the job's to say
    script: str | None = None
    arguments: tuple[str, ...] = ()
    config: str | None = None  # DeepSpeed JSON file whose keys override what the script passes
    variant: str | None = None  # None: DeepSpeed as installed
    release: str | None = None
    transformers: bool = False  # whether the warm process imports transformers too

    @property
    def title(self) -> str:
        if self.run is not None:
            return Run.model_validate(self.run).run_id
        return Path(self.script or "").name

    @property
    def overlay(self) -> Path | None:
        """The folder to put first on PYTHONPATH; built if need be."""
        return overlay_path(Variant.parse(self.variant), self.release) if self.variant else None

    @classmethod
    def of_run(cls, run: Run, steps: int | None = None) -> Program:
        """The training of a run on the virtual device, `steps` steps of it."""
        training = run.training.model_copy(
            update={"steps": min(steps or run.training.steps, run.training.steps), "checkpoint_every": 0}
        )
        run = run.model_copy(
            update={"device": "virtual", "policy": "eager", "poison": "nan", "training": training}
        )
        return cls(
            ranks=run.shape.world_size,
            run=run.model_dump(mode="json"),
            variant=run.variant,
            release=run.release,
            transformers=True,
        )

    @classmethod
    def parse(cls, content: dict[str, Any]) -> Program:
        return cls(**{**content, "arguments": tuple(content.get("arguments", ()))})


@dataclass(frozen=True, order=True)
class Flip:
    """One decision of a scripted schedule: op `hold` does not start before op `until` has run."""

    hold: int
    until: int


@dataclass(frozen=True)
class Job:
    """One execution of a program: under which schedule, and what to watch."""

    program: Program
    policy: str = "busy"
    flips: tuple[Flip, ...] = ()  # of policy `scripted`
    poison: str = "nan"
    seed: int = 0
    analyse: bool = True
    excerpt: bool = False  # record what happens around the first flip, and the order in which ops run

    def json(self) -> str:
        return json.dumps(asdict(self), indent=1)

    @classmethod
    def parse(cls, content: dict[str, Any]) -> Job:
        flips = tuple(Flip(**flip) for flip in content.get("flips", ()))
        return cls(**{**content, "program": Program.parse(content["program"]), "flips": flips})

    def under(self, policy: str, flips: Iterable[Flip] = (), **changes: Any) -> Job:
        """The same program under another schedule, without the analysis."""
        return replace(self, policy=policy, flips=tuple(flips), **{"analyse": False, **changes})


@dataclass(frozen=True)
class Outcome:
    """What the ranks of a job left behind."""

    reports: tuple[RankReport, ...]
    problem: str | None = None
    processor_seconds: float | None = None  # of all ranks; None where they did not end well
    losses: tuple[str, ...] = ()  # of a run: one a step, as written
    window: tuple[Trace, ...] = ()  # with `excerpt`: rank 0 around the first flip
    order: dict[int, int] = field(
        default_factory=dict
    )  # with `excerpt`: op index (~index of the host's accesses) → place in the executed order of rank 0

    @property
    def digests(self) -> tuple[str | None, ...]:
        """One a rank: what its final values hash to."""
        return tuple(report.digest for report in self.reports)


class Ranks:
    """A warm process for one overlay; use as a context manager. Not for several threads at once."""

    def __init__(self, overlay: Path | None, scratch: Path | None = None, transformers: bool = False) -> None:
        self.own = tempfile.TemporaryDirectory(prefix="hpz-race-") if scratch is None else None
        self.scratch = scratch = scratch or Path(self.own.name if self.own else "")
        self.jobs, self.idle = 0, 0.0  # seconds for which a program that ended well was idle at a stretch
        scratch.mkdir(parents=True, exist_ok=True)
        self.errors = scratch / "server.txt"
        inherited = os.environ.get("PYTHONPATH")
        path = [str(overlay)] if overlay else []
        path += [str(REPOSITORY), *([inherited] if inherited else [])]
        with self.errors.open("wb") as stream:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "harness.race.server", *(["transformers"] if transformers else [])],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stream,
                text=True,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(path), **QUIET},
                start_new_session=True,
            )

    def __enter__(self) -> Ranks:
        return self

    def __exit__(self, *_: object) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        try:
            self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()
        if self.own is not None:
            self.own.cleanup()

    def run(self, job: Job, timeout: float = TIMEOUT_SECONDS) -> Outcome:
        """Run a job to its end. Raises HarnessError for a program that cannot run here."""
        folder = self.scratch / f"job-{self.jobs}"
        self.jobs += 1
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        (folder / "job.json").write_text(job.json())
        if job.program.run is not None:
            run = Run.model_validate(job.program.run)
            RunDirectory(folder / "run").create(
                run.model_copy(update={"policy": job.policy, "poison": job.poison})
            )
        ended = self._ask(
            {
                "job": str(folder),
                "ranks": job.program.ranks,
                "port": free_port(),
                "timeout": timeout,
                "patience": FIRST_STALL_SECONDS if job.analyse else STALL_SECONDS + 2 * self.idle,
            }
        )
        self.idle = max(self.idle, ended.get("idle", 0.0))
        return collect(job, folder, ended)

    def _ask(self, message: dict[str, Any]) -> dict[str, Any]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            self.process.stdin.write(json.dumps(message) + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            last = " | ".join(self.errors.read_text(errors="replace").splitlines()[-4:])
            raise RunFailed(f"the process that starts ranks ended with code {self.process.wait()}: {last}")
        answer: dict[str, Any] = json.loads(line)
        return answer


QUIET = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "TRANSFORMERS_VERBOSITY": "error"}


def collect(job: Job, folder: Path, ended: dict[str, Any]) -> Outcome:
    """Read what the ranks wrote; turn a stall, a mismatch or a failure into one clear sentence."""
    reports, order, window = list[RankReport](), dict[int, int](), list[Trace]()
    for rank in range(job.program.ranks):
        file = folder / f"rank-{rank}.json"
        if file.exists():
            content = json.loads(file.read_text())
            if rank == 0:
                order = {index: place for place, index in enumerate(content.get("order", []))}
                window = [Trace(**mark) for mark in content.get("window", [])]
            reports.append(RankReport.model_validate(content["report"]))
    refused = [text for rank in range(job.program.ranks) if (text := _read(folder / f"refused-{rank}.txt"))]
    if refused:
        raise HarnessError(refused[0])
    steps = _lines(folder / "run" / "steps.jsonl")
    losses = tuple(f"{json.loads(line)['loss']}" for line in steps)
    problem = None
    if ended["how"] != "done":
        problem = explain(folder, job.program.ranks, ended)
    return Outcome(tuple(reports), problem, ended.get("processor_seconds"), losses, tuple(window), order)


def explain(folder: Path, ranks: int, ended: dict[str, Any]) -> str:
    """Why the ranks did not end well: collectives that do not match, where each waits, or the first error."""
    mismatch = mismatch_in(folder, ranks, ended=ended["how"] in ("failed", "stalled"))
    if ended["how"] == "failed":
        rank = ended["rank"]
        last = next(
            (line for line in reversed(_lines(folder / f"log-{rank}.txt")) if line.strip()), "no output"
        )
        return f"rank {rank} failed: {last.strip()}" + (f"; {mismatch}" if mismatch else "")
    if mismatch:
        return f"the ranks wait for each other: {mismatch}"
    where = [
        f"rank {rank} at {place}" for rank in range(ranks) if (place := waits_at(folder / f"log-{rank}.txt"))
    ]
    why = "the time limit passed"
    if ended["how"] == "stalled":
        why = f"no rank has used the processor for {ended['patience']:.0f} s"
    return f"{why}: {'; '.join(where) or 'no rank says where'}"


def mismatch_in(folder: Path, ranks: int, ended: bool = True) -> str | None:
    """The first mismatch among the collectives that the ranks of a job have issued so far."""
    return first_mismatch([_lines(folder / f"collectives-{rank}.txt") for rank in range(ranks)], ended)


def first_mismatch(issued: Sequence[Sequence[str]], ended: bool = True) -> str | None:
    """The first collective that two ranks of a group issued differently; None where all agree.

    While they have not `ended`, a rank that has issued fewer may only be slower.

    `issued` holds for each rank its lines `GROUP RANKS OP BYTES PLACE`, in order of issue. Groups of the same ranks
    count as one, since ranks number their groups each for itself.
    """
    calls = [[line.split(" ", 4)[1:] for line in lines] for lines in issued]
    for group in dict.fromkeys(call[0] for mine in calls for call in mine):
        members = [rank for rank in map(int, group.split(",")) if rank < len(calls)]
        mine = {rank: [call for call in calls[rank] if call[0] == group] for rank in members}
        one = members[0]
        for other in members[1:]:
            shorter = min(len(mine[one]), len(mine[other]))
            pair = [(rank, mine[rank] if ended else mine[rank][:shorter]) for rank in (one, other)]
            if sentence := _difference(group, *pair):
                return sentence
    return None


def _difference(
    group: str, one: tuple[int, list[list[str]]], other: tuple[int, list[list[str]]]
) -> str | None:
    (rank, calls), (other_rank, others) = one, other
    for at, (a, b) in enumerate(zip(calls, others, strict=False)):
        if a[1:3] != b[1:3]:
            return (
                f"collective {at} of ranks {group} differs: rank {rank} issued {a[1]} of {a[2]} bytes at {a[3]}, "
                f"rank {other_rank} {b[1]} of {b[2]} bytes at {b[3]}"
            )
    if len(calls) == len(others):
        return None
    longer, shorter = (rank, other_rank) if len(calls) > len(others) else (other_rank, rank)
    extra = max(calls, others, key=len)[min(len(calls), len(others))]
    return (
        f"rank {longer} issued {extra[1]} of {extra[2]} bytes among ranks {group} at {extra[3]}; "
        f"rank {shorter} never did"
    )


def waits_at(log: Path) -> str | None:
    """The innermost frame of the user's program in the traceback that a stalled rank dumped."""
    frames = [line.strip() for line in _lines(log) if line.startswith("  File ")]
    for frame in frames:
        if not any(
            part in frame for part in ("/torch/", "harness/device", "harness/race", "/deepspeed/comm/")
        ):
            return frame.removeprefix("File ").replace('"', "")
    return None


def _lines(file: Path) -> list[str]:
    return _read(file).splitlines()


def _read(file: Path) -> str:
    return file.read_text(errors="replace") if file.exists() else ""


def end_all(pids: Iterable[int]) -> None:
    """Let each rank dump where it stands (faulthandler on SIGUSR2), then kill it."""
    pids = list(pids)
    for sent in (signal.SIGUSR2, signal.SIGKILL):
        for pid in pids:
            try:
                os.kill(pid, sent)
            except ProcessLookupError:
                continue
        time.sleep(0.3)
