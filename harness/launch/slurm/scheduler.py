"""Talk to SLURM: one query per ten seconds at most, whatever is asked and by however many processes.

Text output is parsed, not JSON, whose form changes from release to release; unknown states and extra fields pass.
"""

from __future__ import annotations

import fcntl
import getpass
import hashlib
import json
import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from harness.launch.slurm.clients import FINISHED, SQUEUE_FIELDS, Clients, Job, NoAccounting
from harness.system.errors import HarnessError
from harness.system.utc import seconds_since, utc_now

QUERY_SECONDS = 10.0  # at least, between two queries of one cluster
ACCOUNTING_RETRY_SECONDS = 3600.0


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


def cache_file(cluster: str, what: str = "scheduler") -> Path:
    """One file a user and cluster, and form of the answers."""
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    form = "".join(SQUEUE_FIELDS)
    key = hashlib.sha256(
        f"{getpass.getuser()} {os.environ.get('SLURM_CONF', '')} {cluster} {form}".encode()
    ).hexdigest()[:12]
    return root / "hpz" / f"{what}-{cluster}-{key}.json"
