"""Starts the ranks of one program after another from a warm process, and says clearly when they do not end.

`Ranks` keeps a process that has imported torch and one DeepSpeed overlay (`python -m harness.race.server`); each job
forks its ranks from it. A job is a folder: job.json goes in, rank-N.json and log-N.txt come out.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pydantic

from harness.race.classes import Before, Pair
from harness.race.explain import explain, lines_of, text_of
from harness.race.job import Job, Outcome, Program
from harness.race.report import RankReport, Trace
from harness.record import RunDirectory
from harness.study import Run
from harness.system.child import Child, python_path
from harness.system.errors import HarnessError
from harness.system.imports import OWN_PACKAGES
from harness.system.ports import Port

STALL_SECONDS = 30.0  # no rank has used the processor for so long: they wait for each other
FIRST_STALL_SECONDS = (
    120.0  # the same while nobody knows yet for how long the program itself sleeps or downloads
)
TIMEOUT_SECONDS = 600.0
QUIET = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "TRANSFORMERS_VERBOSITY": "error"}


BOOT = (
    "from harness.system.imports import use_own_packages; use_own_packages()\n"
    "from harness.race.server import main; main()"
)


class Ranks:
    """A warm process for one overlay; use as a context manager. Not for several threads at once."""

    def __init__(
        self,
        overlay: Path | None,
        scratch: Path | None = None,
        transformers: bool = False,
        map_cuda: bool = False,
        python: str | None = None,
    ) -> None:
        self.own = tempfile.TemporaryDirectory(prefix="hpz-race-") if scratch is None else None
        self.scratch = scratch = scratch or Path(self.own.name if self.own else "")
        self.started = time.monotonic()
        self.jobs, self.idle = 0, 0.0  # seconds for which a program that ended well was idle at a stretch
        self.imports = 0.0  # seconds that the process took to import everything; known after its first job
        scratch.mkdir(parents=True, exist_ok=True)
        self.child = Child(
            "the process that starts ranks",
            ([python, "-c", BOOT] if python else [sys.executable, "-m", "harness.race.server"])
            + ["transformers"] * transformers
            + ["map-cuda"] * map_cuda,
            scratch / "server.txt",
            {"PYTHONPATH": python_path(*([overlay] if overlay else [])), **QUIET, **own_packages(python)},
        )

    @classmethod
    def of(cls, program: Program) -> Ranks:
        """Those of one program."""
        return cls(
            program.overlay,
            transformers=program.transformers,
            map_cuda=program.map_cuda,
            python=program.python,
        )

    def __enter__(self) -> Ranks:
        return self

    def __exit__(self, *_: object) -> None:
        self.child.stop()
        if self.own is not None:
            self.own.cleanup()

    def run(self, job: Job, timeout: float = TIMEOUT_SECONDS) -> Outcome:
        """Run a job to its end.

        Raises HarnessError for a program that cannot run here, RunFailed where the process that starts ranks is gone.
        """
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
        with Port() as port:
            ended = self.child.ask(
                {
                    "job": str(folder),
                    "ranks": job.program.ranks,
                    "port": port.number,
                    "timeout": timeout,
                    "patience": FIRST_STALL_SECONDS if job.analyse else STALL_SECONDS + 2 * self.idle,
                }
            )
        self.idle = max(self.idle, ended.get("idle", 0.0))
        self.imports = ended["imports"]
        return collect(job, folder, ended)


def own_packages(python: str | None) -> dict[str, str]:
    """Where another interpreter finds the packages that this project needs and that one may lack."""
    if python is None:
        return {}
    return {OWN_PACKAGES: str(Path(pydantic.__file__).parents[1])}


def collect(job: Job, folder: Path, ended: dict[str, Any]) -> Outcome:
    """Read what the ranks wrote; turn a stall, a mismatch or a failure into one clear sentence."""
    reports, order, window = list[RankReport](), dict[int, int](), list[Trace]()
    contents = list[dict[str, Any]]()
    for rank in range(job.program.ranks):
        file = folder / f"rank-{rank}.json"
        if file.exists():
            content = json.loads(file.read_text())
            if rank == 0:
                order = {index: place for place, index in enumerate(content.get("order", []))}
                window = [Trace(**mark) for mark in content.get("window", [])]
            reports.append(RankReport.model_validate(content["report"]))
            contents.append(content)
    refused = [text for rank in range(job.program.ranks) if (text := text_of(folder / f"refused-{rank}.txt"))]
    if refused:
        raise HarnessError(refused[0])
    silent = [rank for rank in range(job.program.ranks) if not (folder / f"rank-{rank}.json").exists()]
    if ended["how"] == "done" and silent:
        raise HarnessError(
            f"{job.program.title}: rank {silent[0]} ended with code 0 and left no record, so nothing can be said of "
            "it; does the script replace its own process (os.exec…)? Name what it starts instead"
        )
    steps = lines_of(folder / "run" / "steps.jsonl")
    losses = tuple(f"{json.loads(line)['loss']}" for line in steps)
    problem = None
    if ended["how"] != "done":
        problem = explain(folder, job.program.ranks, ended, job.program.script)
    pairs, before = joined(contents)
    values = (
        [lines_of(folder / f"values-{rank}.txt") for rank in range(job.program.ranks)] if job.values else []
    )
    return Outcome(
        tuple(reports),
        problem,
        ended.get("processor_seconds"),
        losses,
        tuple(window),
        order,
        issued=tuple(content["issued"] for content in contents),
        pairs=pairs,
        before=before,
        values=tuple(map(tuple, values)),
    )


def joined(contents: list[dict[str, Any]]) -> tuple[tuple[Pair, ...], Before]:
    """The unordered pairs of any rank, and what is ordered among their ops on every rank that has these ops."""
    pairs = sorted({(first, second) for content in contents for first, second in content.get("pairs", ())})
    before: dict[int, frozenset[int]] = {}
    for content in contents:
        for name, earlier in content.get("before", {}).items():
            op, mine = int(name), frozenset(earlier)
            before[op] = before[op] & mine if op in before else mine
    return tuple(pairs), before
