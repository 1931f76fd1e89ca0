"""SLURM's commands and what they say: sbatch, scancel, squeue and sacct, run here or where the profile says."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from harness.launch.slurm.profile import Profile, seconds_of
from harness.system.errors import HarnessError
from harness.system.utc import local_to_utc

CLIENT_SECONDS = 60.0  # clients retry for minutes against a controller that is gone
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
    "PREEMPTED",  # and cancelled; one that is requeued is PENDING
}
# Array id, task, state, time, nodes, comment, actual or expected start, account, QOS, partition, reason.
SQUEUE_FIELDS = ("%F", "%K", "%T", "%M", "%N", "%k", "%S", "%a", "%q", "%P", "%r")
SACCT_FIELDS = ("JobID", "State", "Elapsed", "NodeList", "Start")


HELD = "launch failed requeued held"  # in the words of squeue


@dataclass(frozen=True)
class Job:
    """One array task as the scheduler sees it, or a job of this user that is none and has no `task`."""

    array_id: str
    task: str
    state: str  # SLURM's word: PENDING, RUNNING, TIMEOUT, …
    elapsed: str = ""
    nodes: str = ""
    mark: str = ""
    reason: str = ""
    start: str = ""  # when it began or, pending, is expected to: local time, 2026-11-26T07:04:03
    account: str = ""
    qos: str = ""
    partition: str = ""

    @property
    def held(self) -> bool:
        """Whether SLURM keeps it until somebody has looked: the node could not launch it."""
        return self.state == "PENDING" and self.reason == HELD

    @property
    def active(self) -> bool:
        """Whether SLURM will still do something with it; a state unknown to us counts as active."""
        return self.state not in FINISHED

    @property
    def ended_utc(self) -> str | None:
        """When an ended job ended; None where SLURM does not tell."""
        try:
            began, elapsed = datetime.fromisoformat(self.start), seconds_of(self.elapsed)
        except ValueError:
            return None
        return local_to_utc((began + timedelta(seconds=elapsed)).isoformat())


class Unanswered(HarnessError):
    """SLURM did not answer; what was asked of it may have been done all the same."""


class NoAccounting(HarnessError):
    """This cluster keeps no record of ended jobs, and another time will not either."""


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

    def sbatch(self, script: Path, dependency: str | None = None) -> str:
        """Submit a script, with this --dependency in place of its own where there is one; returns the job's id.

        Raises HarnessError with SLURM's own words; Unanswered where the job may have been accepted all the same.
        """
        order = [f"--dependency={dependency}"] if dependency else []
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

    def release(self, job_id: str) -> None:
        """Let a job go that SLURM holds. Raises HarnessError where it refuses."""
        self._checked(["scontrol", "release", job_id])

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

    def user(self) -> str:
        """Whose jobs these are."""
        return self._checked(["id", "-un"]).strip()

    def say(self, *command: str) -> str:
        """What another of SLURM's commands prints. Raises HarnessError with its words where it fails."""
        return self._checked(list(command))

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
        kept = {name: v for name, v in os.environ.items() if not (without and name.startswith(without))}
        environment = {**kept, "SLURM_TIME_FORMAT": "standard"}
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
        if (
            len(parts) == len(SQUEUE_FIELDS)
            and parts[0].isdigit()
            and (parts[1].isdigit() or parts[1] == "N/A")
        ):
            known = ["" if part in ("None", "N/A", "(null)") else part for part in parts]
            array_id, task, state, elapsed, nodes, mark, start, account, qos, partition, reason = known
            yield Job(array_id, task, state, elapsed, nodes, mark, reason, start, account, qos, partition)


def parse_sacct(text: str) -> Iterator[Job]:
    """Jobs from sacct's lines, `123_4|CANCELLED by 0|00:01:00|n0|2026-11-26T07:04:03`.

    Steps and whole arrays are passed over.
    """
    for line in text.splitlines():
        parts = line.split("|")
        match = re.fullmatch(r"(\d+)_(\d+)", parts[0])
        if match and len(parts) >= len(SACCT_FIELDS):
            state = (parts[1].split() or ["UNKNOWN"])[0]
            yield Job(match[1], match[2], state, parts[2], parts[3], start=parts[4])
