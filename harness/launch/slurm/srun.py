"""Job steps of one array task: started with srun, told of a stop, and none left behind."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass

STOP_REPEAT_SECONDS = 3.0  # a rank that still imports drops the signal
SHAPE_SECONDS = 60.0
PREEMPTION_SECONDS = 5.0  # between questions whether the job is still being preempted
PREEMPTED = re.compile(r"\bPreemptTime=\d")
READ_SECONDS = 5.0  # for the rest of what an srun that has ended said


@dataclass
class Stop:
    """Whether this task was asked to stop: by the signal before the limit, or by SLURM ending the job."""

    before_limit: bool = False
    ending: bool = False

    def listen(self) -> None:
        signal.signal(signal.SIGUSR1, self._hear)
        signal.signal(signal.SIGTERM, self._hear)

    def _hear(self, number: int, _: object) -> None:
        self.before_limit |= number == signal.SIGUSR1
        self.ending |= number == signal.SIGTERM

    @property
    def asked(self) -> bool:
        return self.before_limit or self.ending


@dataclass(frozen=True)
class Allocation:
    """Where this task runs, from SLURM's variables."""

    job: str  # ARRAY_TASK, or the plain id outside an array: the last task's own id is its array's, and means all
    restart: int
    nodes: str

    @property
    def name(self) -> str:
        """Tells it from the one that a requeue gives the same task."""
        return f"{self.job}/{self.restart}"

    @classmethod
    def from_slurm(cls) -> Allocation:
        get = os.environ.get
        array, task = get("SLURM_ARRAY_JOB_ID"), get("SLURM_ARRAY_TASK_ID")
        job = f"{array}_{task}" if array and task else get("SLURM_JOB_ID", "")
        return cls(job, int(get("SLURM_RESTART_COUNT") or 0), get("SLURM_JOB_NODELIST", ""))


def run_step(
    command: list[str],
    environment: dict[str, str],
    allocation: Allocation,
    stop: Stop,
    limit: float | None = None,
) -> tuple[int, list[str]]:
    """Run srun to its end, `limit` seconds at most; passes a stop on to it. Returns its exit code and error lines."""
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE)
    errors: list[str] = []
    reader = threading.Thread(target=_tee, args=(process, errors), daemon=True)
    reader.start()
    deadline, repeat = time.monotonic() + (limit or float("inf")), 0.0
    while process.poll() is None:
        time.sleep(0.05)
        if stop.asked and time.monotonic() > repeat:
            process.send_signal(signal.SIGUSR1)
            repeat = time.monotonic() + STOP_REPEAT_SECONDS
        if time.monotonic() > deadline:
            process.kill()
    if process.returncode < 0:
        end_steps(allocation)  # the ranks of a killed srun would go on, and hold its standard error open
    reader.join(timeout=READ_SECONDS)
    return process.returncode, list(errors)


def end_steps(allocation: Allocation) -> None:
    """Kill what is left of a task's steps and wait until they are gone."""
    query = ["squeue", "--noheader", "--steps", f"--jobs={allocation.job}", "--format=%i"]
    for _ in range(30):
        listed = subprocess.run(query, capture_output=True, text=True, check=False).stdout.split()
        left = [step for step in listed if step.rpartition(".")[2].isdigit()]
        if not left:
            return
        subprocess.run(["scancel", "--signal=KILL", *left], capture_output=True, check=False)
        time.sleep(1)


def await_preemption(allocation: Allocation, stop: Stop) -> None:
    """Where SLURM is preempting this job: wait for it to end the job, at the end of its grace time.

    It tells the steps at once and the job's script only then; one that has ended by itself is not requeued.
    """
    query = ["scontrol", "show", "job", allocation.job]
    while PREEMPTED.search(subprocess.run(query, capture_output=True, text=True, check=False).stdout):
        deadline = time.monotonic() + PREEMPTION_SECONDS
        while time.monotonic() < deadline:
            if stop.asked:
                return
            time.sleep(0.1)


def on_every_node(nodes: int, command: list[str]) -> str | None:
    """Run a command once on each node of the allocation; returns why that could not be done, or None."""
    srun = ["srun", f"--nodes={nodes}", f"--ntasks={nodes}", "--ntasks-per-node=1"]
    try:
        done = subprocess.run(
            [*srun, *command], stderr=subprocess.PIPE, text=True, check=False, timeout=SHAPE_SECONDS
        )
    except subprocess.TimeoutExpired:
        return f"srun did not answer within {SHAPE_SECONDS:g} s"
    return (" ".join(done.stderr.split()) or f"exit code {done.returncode}") if done.returncode else None


def _tee(process: subprocess.Popen[bytes], lines: list[str]) -> None:
    """Keep what srun says, and say it here, too; it is read to its end even where nobody listens here any more."""
    assert process.stderr is not None
    with process.stderr:
        for raw in process.stderr:
            lines.append(raw.decode(errors="replace").rstrip("\n"))
            with contextlib.suppress(OSError):
                print(lines[-1], file=sys.stderr, flush=True)
