"""The run directory: what a run is, what it measured and how it ended, in files that survive a kill at any moment.

results/<study>/runs/<run-id>/
    run.json        the run as resolved, with patch hashes and package versions; written before launch
    steps.jsonl     one line a step, flushed (see StepRecord)
    ranks.jsonl     what steps took on each rank, one line for some steps (harness.record.ranks)
    allocations.jsonl   on SLURM, one line a turn: which steps, where, when, and how it ended (harness.record.hours)
    status.json     state, attempts, heartbeat, exit of each rank; replaced atomically
    environment.jsonl  what surrounded rank 0, a line a start that found something new (see environment)
    log/rank-N.txt  what each rank printed; of starts before, log/start-M/rank-N.txt
    checkpoint/     the newest DeepSpeed checkpoint, where one was asked for
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from harness.record.provenance import git_state, package_versions
from harness.study import Frozen, Run
from harness.system.errors import HarnessError
from harness.system.secrets import hidden
from harness.system.utc import utc_now
from harness.system.whole_file import write_json

SCHEMA = 1

State = Literal[
    "pending",
    "running",
    "done",  # has its final record; a non-finite loss is a result, not a failure
    "failed",
    "timed-out",
    "interrupted",
    "preempted",
    "node-failed",
    "out-of-memory",
]
OPEN: tuple[State, ...] = ("pending", "running", "preempted")  # that only work, or a living job, leads out of


@dataclass(frozen=True)
class StepRecord:
    """One optimizer step. `bytes_*` are what one node sends inside itself and to other nodes, payload only."""

    step: int
    loss: float  # rank 0's mean over its micro-batches
    grad_norm: float  # global, before clipping
    lr: float
    tokens: int  # of the whole world
    step_seconds: float
    secondary_gathers: int  # all-gathers that read secondary shards
    host_syncs: int | None  # None: not counted on this device
    bytes_intra: int
    bytes_inter: int
    skipped: bool
    batch_hash: int | None = None  # of rank 0's micro-batches: equal in every run of a pair
    device_seconds: float | None = None  # of the step on the compute stream, by CUDA events
    # Parts of the step, summed over micro-batches: by CUDA events on a GPU, on the host's clock on a cpu.
    forward_seconds: float | None = None
    backward_seconds: float | None = None
    optimizer_seconds: float | None = None
    # That the compute stream waited for other streams, by CUDA events; on a cpu, the host for collectives.
    exposed_comm_seconds: float | None = None
    memory_allocated: int | None = None  # most bytes on rank 0's GPU since the step began
    memory_reserved: int | None = None
    validation_loss: float | None = None  # after the step, mean over the held-out batches of all ranks
    host_blocked_seconds: float | None = None  # that the host waited in synchronises; None: not measured here
    wire_bytes: int | None = None  # that rank 0's node put on its link, from the interface's counter
    wire_bytes_predicted: int | None = (
        None  # the same from the counted collectives (harness.workload.gloo_bytes)
    )

    def line(self) -> str:
        """Strict JSON: a non-finite number becomes null and is named in `nonfinite`."""
        values = dict(vars(self))
        odd = {
            key: value
            for key, value in values.items()
            if isinstance(value, float) and not math.isfinite(value)
        }
        values |= dict.fromkeys(odd)
        named = " ".join(f"{key}={value}" for key, value in odd.items()) or None
        return json.dumps({"schema": SCHEMA, **values, "nonfinite": named, "utc": utc_now()}, allow_nan=False)


class Final(Frozen):
    """The record that makes a run done."""

    steps: int
    skipped_steps: int
    shards_sha256: str  # over every rank's parameter shards, in rank order
    batches_sha256: str | None = None  # over every rank's micro-batches of all steps, in rank order
    accuracy: float | None = None  # finetune: share of multiple-choice questions answered rightly
    validation_loss: float | None = None  # the last one, where it is a number
    memory_allocated: tuple[int, ...] | None = None  # most bytes on each rank's GPU, in rank order
    memory_reserved: tuple[int, ...] | None = None


class Exit(Frozen):
    """How one rank ended."""

    code: int | None = None
    signal: str | None = None
    reason: str = ""


class Status(Frozen):
    """The content of status.json."""

    schema_version: int = SCHEMA
    state: State = "pending"
    attempts: int = 0
    step: int | None = None
    heartbeat_utc: str | None = None
    started_utc: str | None = None
    ended_utc: str | None = None
    exit: dict[int, Exit] = Field(default_factory=dict)
    reason: str | None = None  # one sentence, where the run did not end well
    ended_by: str | None = None  # SLURM's word for its job's end, or FORGOTTEN, where that ended the run
    final: Final | None = None
    network: dict[str, Any] | None = None
    gpu: str | None = None  # rank 0's card, as its driver names it
    allocations: tuple[str, ...] = ()  # on SLURM: ARRAY_TASK/RESTART of each allocation that made steps of it


class RunDirectory:
    """Names the files of one run directory and reads and writes them."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.run_file = self.path / "run.json"
        self.steps_file = self.path / "steps.jsonl"
        self.ranks_file = self.path / "ranks.jsonl"
        self.status_file = self.path / "status.json"
        self.races_file = self.path / "races.json"
        self.logs = self.path / "log"
        self.checkpoints = self.path / "checkpoint"

    def create(self, run: Run, code: str | None = None, container: dict[str, str] | None = None) -> None:
        """Write run.json (anew until there are steps) and the folders. Raises HarnessError on a full or read-only disk.

        `code` is the digest of the snapshot that the run will have, `container` what its ranks run in.
        """
        sent = {"code": code, "container": container}
        try:
            self.logs.mkdir(parents=True, exist_ok=True)
            if not self.run_file.exists() or (code and not self.steps_file.exists()):
                write_json(self.run_file, describe_run(run) | {k: v for k, v in sent.items() if v})
        except OSError as error:
            raise HarnessError(
                f"{self.path}: cannot be written ({error.strerror}); free space or use --results"
            ) from error

    def run(self) -> Run:
        """The run as recorded. Raises HarnessError when run.json is missing or not a run."""
        try:
            content = json.loads(self.run_file.read_text())
            return Run.model_validate(content["run"])
        except (OSError, ValueError, KeyError) as error:
            raise HarnessError(
                f"{self.run_file}: not a run record ({error}); delete the folder to run it anew"
            ) from error

    def status(self) -> Status:
        """The status; a missing or half-written file reads as pending."""
        try:
            return Status.model_validate_json(self.status_file.read_text())
        except (OSError, ValueError):
            return Status()

    def update_status(self, **changes: Any) -> Status:
        """Change some fields of status.json; the file is replaced in one move, under a lock."""
        if reason := changes.get("reason"):
            changes["reason"] = hidden(reason)  # often the last words of a rank or of srun
        with self._lock():
            status = Status.model_validate({**self.status().model_dump(), **changes})
            write_json(self.status_file, status.model_dump(mode="json"))
        return status

    @contextlib.contextmanager
    def _lock(self) -> Iterator[None]:
        with (self.path / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def earlier_starts(self) -> list[Path]:
        """The log folders of starts before the last, the oldest first."""
        return sorted(self.logs.glob("start-*"), key=lambda folder: int(folder.name.removeprefix("start-")))

    def set_logs_aside(self) -> None:
        """Keep what the ranks of the last start printed apart from what the next will print."""
        files = list(self.logs.glob("rank-*.txt"))
        if not files:
            return
        aside = self.logs / f"start-{len(self.earlier_starts()) + 1}"
        aside.mkdir(exist_ok=True)
        for file in files:
            file.replace(aside / file.name)

    def last_lines(self, rank: int, count: int = 8) -> list[str]:
        """The last lines that a rank printed."""
        file = self.logs / f"rank-{rank}.txt"
        return file.read_text(errors="replace").splitlines()[-count:] if file.exists() else []


class StepWriter:
    """Appends step lines, each flushed; `from_step` cuts what a resumed run will do again, and half-written lines."""

    def __init__(self, file: Path, from_step: int = 0) -> None:
        kept = [line for line in whole_lines(file) if line["step"] < from_step] if from_step else []
        beside = file.with_suffix(".tmp")
        beside.write_text("".join(json.dumps(line) + "\n" for line in kept))
        beside.replace(file)
        self._stream = file.open("a")

    def write(self, record: StepRecord) -> None:
        self._stream.write(record.line() + "\n")
        self._stream.flush()

    def close(self) -> None:
        self._stream.close()


def whole_lines(file: Path) -> Iterator[dict[str, Any]]:
    """The lines of a file of JSON lines that can be read; none where there is no file."""
    for text in file.read_text().splitlines() if file.exists() else []:
        with contextlib.suppress(ValueError):
            yield json.loads(text)


def describe_run(run: Run) -> dict[str, Any]:
    """The content of run.json: the run and where it comes from."""
    return {
        "schema_version": SCHEMA,
        "run_id": run.run_id,
        "evidence": run.evidence,
        "created_utc": utc_now(),
        "run": run.model_dump(mode="json"),
        "versions": package_versions(),
        "git": git_state(),
    }
