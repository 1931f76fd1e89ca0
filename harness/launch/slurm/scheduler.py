"""Talk to SLURM: one query per ten seconds at most, whatever is asked and by however many processes.

Text output is parsed, not JSON, whose form changes from release to release; unknown states and extra fields pass.
"""

from __future__ import annotations

import fcntl
import getpass
import hashlib
import json
import os
import re
import shutil
import subprocess
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from harness.launch.slurm.profile import Profile
from harness.system.errors import HarnessError
from harness.system.utc import seconds_since, utc_now

QUERY_SECONDS = 10.0  # at least, between two queries of one cluster
CLIENT_SECONDS = 60.0  # clients retry for minutes against a controller that is gone
ACCOUNTING_RETRY_SECONDS = 3600.0
NO_ACCOUNTING = re.compile(
    r"accounting storage is disabled|sacct is not installed|sacct\W*: No such file", re.I
)

FINISHED = {
    "COMPLETED",
    "FAILED",
    "TIMEOUT",
    "CANCELLED",
    "NODE_FAIL",
    "OUT_OF_MEMORY",
    "BOOT_FAIL",
    "DEADLINE",
}
SQUEUE_FIELDS = (
    "%F",
    "%K",
    "%T",
    "%M",
    "%N",
    "%k",
    "%r",
)  # array id, task, state, time, nodes, comment, reason
SACCT_FIELDS = ("JobID", "State", "Elapsed", "NodeList")


@dataclass(frozen=True)
class Job:
    """One array task as the scheduler sees it."""

    array_id: str
    task: str
    state: str  # SLURM's word: PENDING, RUNNING, TIMEOUT, …
    elapsed: str = ""
    nodes: str = ""
    mark: str = ""
    reason: str = ""

    @property
    def active(self) -> bool:
        """Whether SLURM will still do something with it; a state unknown to us counts as active."""
        return self.state not in FINISHED


class Unanswered(HarnessError):
    """SLURM did not answer; what was asked of it may have been done all the same."""


class NoAccounting(HarnessError):
    """This cluster keeps no record of ended jobs, and another time will not either."""


@dataclass(frozen=True)
class Snapshot:
    """What the scheduler said, when; `problem` is why nothing newer is known."""

    utc: str = "1970-01-01T00:00:00.000Z"
    jobs: Mapping[str, Job] = field(default_factory=dict)  # by ARRAY_TASK
    problem: str | None = None
    forgotten: frozenset[str] = frozenset()  # wanted ARRAY_TASKs that neither queue nor accounting has

    def job(self, mark: str, job_id: str | None, task: int) -> Job | None:
        """The job of a submission's task: a living one if there is, else the newest.

        Found by mark, since `sbatch submit.sbatch` gives it another id, and by the recorded id.
        """
        found = (self._marked.get((mark, str(task))), self.jobs.get(f"{job_id}_{task}"))
        return max((job for job in found if job), key=_age, default=None)

    @cached_property
    def _marked(self) -> dict[tuple[str, str], Job]:
        return {(job.mark, job.task): job for job in sorted(self.jobs.values(), key=_age) if job.mark}


def _age(job: Job) -> tuple[bool, int]:
    return job.active, int(job.array_id)


@dataclass(frozen=True)
class Clients:
    """SLURM's commands, run here or where the profile says."""

    prefix: tuple[str, ...] = ()
    cluster: str = "slurm"  # tells job ids of one cluster from those of another

    @classmethod
    def of(cls, profile: Profile) -> Clients:
        """Raises HarnessError where the profile's local cluster is not up."""
        if profile.local_cluster is None:
            return cls()
        from harness.cluster import Cluster

        cluster = Cluster.find(profile.local_cluster)
        # A later cluster of the same name counts its jobs from 1 again.
        return cls(tuple(cluster.prefix()), f"{cluster.name}-{cluster.keeper}-{cluster.keeper_started}")

    def sbatch(self, script: Path, after: str | None = None) -> str:
        """Submit a script, to start once job `after` has ended; returns the job's id.

        Raises HarnessError with SLURM's own words; Unanswered where the job may have been accepted all the same.
        """
        order = [f"--dependency=afterany:{after}"] if after else []
        # SBATCH_* variables of the user's shell would override the script.
        done = self._run(["sbatch", "--parsable", *order, str(script)], without="SBATCH_")
        if done.returncode:
            words = " ".join(done.stderr.split()).removeprefix("sbatch: ")
            if "timed out" in words:
                raise Unanswered(
                    f"SLURM took too long over {script}: {words}; submit again, it looks first whether the job exists"
                )
            raise HarnessError(
                f"SLURM refused {script}: {words}; mend the profile or the study and submit again"
            )
        return done.stdout.strip().splitlines()[-1].partition(";")[0]

    def scancel(self, job_id: str) -> None:
        """Cancel a job or one array task. A job that has ended already is no error."""
        if not re.fullmatch(r"\d+(_\d+)?", job_id):
            raise HarnessError(f"{job_id!r} is no job id; write 1234 or 1234_5")
        done = self._run(["scancel", job_id])
        if done.returncode and "Invalid job id" not in done.stderr:
            raise HarnessError(f"SLURM refused to cancel {job_id}: {' '.join(done.stderr.split())}")

    def squeue(self) -> list[Job]:
        """All jobs of this user that squeue knows, array tasks one by one. Raises HarnessError."""
        command = [
            "squeue",
            "--me",
            "--array",
            "--states=all",
            "--noheader",
            f"--format={'|'.join(SQUEUE_FIELDS)}",
        ]
        return list(parse_squeue(self._checked(command)))

    def sacct(self, job_ids: Collection[str]) -> list[Job]:
        """Jobs from the accounting data base. Raises NoAccounting where there is none, else HarnessError."""
        fields = f"--format={','.join(SACCT_FIELDS)}"
        command = [
            "sacct",
            "--noheader",
            "--parsable2",
            "--allocations",
            fields,
            f"--jobs={','.join(sorted(job_ids))}",
        ]
        try:
            return list(parse_sacct(self._checked(command)))
        except HarnessError as error:
            if NO_ACCOUNTING.search(str(error)):
                raise NoAccounting(str(error)) from error
            raise

    def _checked(self, command: list[str]) -> str:
        done = self._run(command)
        if done.returncode:
            raise HarnessError(
                " ".join(done.stderr.split()) or f"{command[0]} ended with code {done.returncode}"
            )
        return done.stdout

    def _run(self, command: list[str], without: str | None = None) -> subprocess.CompletedProcess[str]:
        if not self.prefix and shutil.which(command[0]) is None:
            raise HarnessError(
                f"{command[0]} is not installed here; run this on a login node of the cluster, or try it on this "
                "machine with: hpz cluster up"
            )
        environment = {
            name: v for name, v in os.environ.items() if not (without and name.startswith(without))
        }
        try:
            return subprocess.run(
                [*self.prefix, *command],
                capture_output=True,
                text=True,
                timeout=CLIENT_SECONDS,
                check=False,
                env=environment,
            )
        except subprocess.TimeoutExpired as error:
            raise Unanswered(
                f"SLURM did not answer {command[0]} within {CLIENT_SECONDS:g} s; try again later"
            ) from error


def parse_squeue(text: str) -> Iterator[Job]:
    """Jobs from squeue's lines; a line that is none is passed over."""
    for line in text.splitlines():
        parts = [part.strip() for part in line.split("|", len(SQUEUE_FIELDS) - 1)]
        if len(parts) == len(SQUEUE_FIELDS) and parts[0].isdigit() and parts[1].isdigit():
            array_id, task, state, elapsed, nodes, mark, reason = parts
            yield Job(array_id, task, state, elapsed, nodes, mark, "" if reason == "None" else reason)


def parse_sacct(text: str) -> Iterator[Job]:
    """Jobs from sacct's lines, `123_4|CANCELLED by 0|00:01:00|n0`; steps and whole arrays are passed over."""
    for line in text.splitlines():
        parts = line.split("|")
        match = re.fullmatch(r"(\d+)_(\d+)", parts[0])
        if match and len(parts) >= len(SACCT_FIELDS):
            yield Job(match[1], match[2], (parts[1].split() or ["UNKNOWN"])[0], parts[2], parts[3])


class Scheduler:
    """The scheduler's view of this user's jobs, shared by all processes through one file."""

    def __init__(self, clients: Clients, cache: Path | None = None) -> None:
        self.clients = clients
        self.file = cache or cache_file(clients.cluster)

    def snapshot(self, wanted: Collection[str] = ()) -> Snapshot:
        """The newest view there may be: asked anew only when the last query, of any process, is old enough.

        `wanted`: ARRAY_TASKs that the caller needs; what squeue has forgotten of them is asked of the accounting.
        """
        with self._locked() as state:
            if seconds_since(state["asked_utc"]) >= QUERY_SECONDS:
                self._ask(state, set(wanted))
                self._write(state)
            jobs = {**state["ended"], **state["queue"]}
            unknown = set(wanted) - jobs.keys()
            forgotten = unknown & set(state["gone"]) if _may_have_accounting(state) else unknown
            known = {key: Job(**job) for key, job in jobs.items()}
            return Snapshot(state["utc"], known, state["problem"], frozenset(forgotten))

    def _ask(self, state: dict[str, Any], wanted: set[str]) -> None:
        """One query: squeue, or sacct every second time where jobs are missing and there may be accounting."""
        missing = wanted - state["queue"].keys() - state["ended"].keys() - set(state["gone"])
        state["asked_utc"] = utc_now()
        if missing and state["last"] == "squeue" and _may_have_accounting(state):
            self._ask_accounting(state, missing)
            return
        try:
            jobs = self.clients.squeue()
        except HarnessError as error:
            state["problem"] = str(error)
            return
        queue = {f"{job.array_id}_{job.task}": asdict(job) for job in jobs}
        gone = {
            key: job for key, job in state["queue"].items() if key not in queue and job["state"] in FINISHED
        }
        state |= {
            "last": "squeue",
            "utc": state["asked_utc"],
            "queue": queue,
            "problem": None,
            "ended": {**state["ended"], **gone},
            "gone": [key for key in state["gone"] if key not in queue],
        }

    def _ask_accounting(self, state: dict[str, Any], missing: set[str]) -> None:
        """Any refusal but NoAccounting means only that it cannot be told now."""
        state["last"] = "sacct"
        try:
            jobs = self.clients.sacct({key.partition("_")[0] for key in missing})
        except NoAccounting:
            state["no_accounting_utc"] = utc_now()
        except HarnessError:
            return
        else:
            ended = {f"{job.array_id}_{job.task}": asdict(job) for job in jobs if not job.active}
            state["ended"] |= ended
            state["gone"] += sorted(missing - ended.keys())

    @contextmanager
    def _locked(self) -> Iterator[dict[str, Any]]:
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with self.file.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield self._read()

    def _write(self, state: dict[str, Any]) -> None:
        beside = self.file.with_suffix(".tmp")
        beside.write_text(json.dumps(state))
        beside.replace(self.file)

    def _read(self) -> dict[str, Any]:
        never = Snapshot().utc
        empty: dict[str, Any] = {
            "asked_utc": never,
            "utc": never,
            "no_accounting_utc": never,
            "last": "",
            "queue": {},
            "ended": {},
            "gone": [],
            "problem": None,
        }
        try:
            return empty | dict(json.loads(self.file.read_text()))
        except (OSError, ValueError):
            return empty


def _may_have_accounting(state: Mapping[str, Any]) -> bool:
    return seconds_since(state["no_accounting_utc"]) > ACCOUNTING_RETRY_SECONDS


def cache_file(cluster: str) -> Path:
    """One file a user and cluster."""
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    key = hashlib.sha256(
        f"{getpass.getuser()} {os.environ.get('SLURM_CONF', '')} {cluster}".encode()
    ).hexdigest()[:12]
    return root / "hpz" / f"scheduler-{cluster}-{key}.json"
