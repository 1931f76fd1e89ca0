"""What a site allows: how long an array may be, and how many jobs a user may have before SLURM at a time.

Asked of scontrol and sacctmgr once a day and remembered beside the scheduler's answers. Which limit holds follows
SLURM's own order (Resource Limits in its manual): the partition's QOS, the job's QOS, the user's association.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from harness.launch.slurm.clients import Clients, Job
from harness.launch.slurm.profile import Profile
from harness.launch.slurm.scheduler import cache_file
from harness.system.errors import HarnessError
from harness.system.utc import seconds_since, utc_now
from harness.system.whole_file import write_json

ASKED_SECONDS = 86400.0  # after which a site is asked again
USUAL_ARRAY = 1001  # SLURM's own MaxArraySize, where it was not asked


@dataclass(frozen=True)
class Association:
    """One line of a user's associations; `partition` is empty where it holds for all."""

    account: str
    partition: str
    jobs: int | None
    qos: str


@dataclass(frozen=True)
class Site:
    """What scontrol and sacctmgr said."""

    utc: str
    array: int = USUAL_ARRAY  # tasks of one array
    jobs: int | None = None  # MaxJobCount, of all users
    default_partition: str = ""
    partition_qos: dict[str, str] = field(default_factory=dict)
    account: str = ""  # the user's default
    associations: tuple[Association, ...] = ()
    qos_jobs: dict[str, int] = field(default_factory=dict)  # MaxSubmitJobsPerUser of those QOS that have one


@dataclass(frozen=True)
class JobLimit:
    """At most `jobs` of those before SLURM whose field `scope` is `value`; an array task is a job."""

    jobs: int
    scope: str  # a field of Job, or "" for all of this user's
    value: str
    words: str

    def room(self, jobs: Iterable[Job]) -> int:
        """How many more may be sent."""
        mine = (
            job for job in jobs if job.active and (not self.scope or getattr(job, self.scope) == self.value)
        )
        return max(self.jobs - sum(1 for _ in mine), 0)


def site(clients: Clients) -> Site | None:
    """The site's limits as asked today; None where SLURM does not tell them."""
    file = cache_file(clients.cluster, "limits")
    known = _read(file)
    if known is not None and seconds_since(known.utc) < ASKED_SECONDS:
        return known
    try:
        asked = ask(clients)
    except HarnessError:
        return known
    file.parent.mkdir(parents=True, exist_ok=True)
    write_json(file, asdict(asked))
    return asked


def ask(clients: Clients) -> Site:
    """Ask SLURM: one call where there is no accounting, else four. Raises HarnessError."""
    config = parse_config(clients.say("scontrol", "show", "config"))
    scheduling = re.search(r"max_array_tasks=(\d+)", config.get("SchedulerParameters", ""))
    arrays = [config.get("MaxArraySize"), scheduling[1] if scheduling else None]
    found = [int(text) for text in arrays if text and text.isdigit()]
    plain = Site(utc_now(), min(found, default=USUAL_ARRAY), _number(config.get("MaxJobCount")))
    if not re.search(r"limits|safe|all", config.get("AccountingStorageEnforce", "")):
        return plain
    default, partition_qos = parse_partitions(clients.say("scontrol", "--oneliner", "show", "partition"))
    show = ("sacctmgr", "--noheader", "--parsable2", "show")
    user = clients.say(
        *(*show, "user", clients.user(), "withassoc", "where", f"cluster={config.get('ClusterName', '')}"),
        "format=DefaultAccount,Account,Partition,MaxSubmitJobs,DefaultQOS",
    )
    account, associations = parse_user(user)
    qos = parse_qos(clients.say(*show, "qos", "format=Name,MaxSubmitJobsPU"))
    return Site(plain.utc, plain.array, plain.jobs, default, partition_qos, account, associations, qos)


def job_limit(site: Site, profile: Profile) -> JobLimit | None:
    """Which limit holds for jobs of this profile."""
    partition = profile.partition or site.default_partition
    account = profile.account or site.account
    mine = [one for one in site.associations if one.account == account and one.partition in ("", partition)]
    own = max(mine, key=lambda one: one.partition != "", default=None)
    of_partition = site.partition_qos.get(partition, "")
    if (jobs := site.qos_jobs.get(of_partition)) is not None:
        words = f"partition {partition!r} allows a user {jobs} jobs at a time (MaxSubmitJobs of QOS {of_partition!r})"
        return JobLimit(jobs, "partition", partition, words)
    qos = profile.qos or (own.qos if own else "") or "normal"
    if (jobs := site.qos_jobs.get(qos)) is not None:
        return JobLimit(jobs, "qos", qos, f"QOS {qos!r} allows a user {jobs} jobs at a time (MaxSubmitJobs)")
    if own is not None and own.jobs is not None:
        words = f"account {account!r} allows you {own.jobs} jobs at a time (MaxSubmitJobs)"
        return JobLimit(own.jobs, "account", account, words)
    if site.jobs is not None:
        return JobLimit(site.jobs, "", "", f"the cluster holds {site.jobs} jobs at a time (MaxJobCount)")
    return None


def array_limit(site: Site | None, profile: Profile) -> int:
    """Tasks that one array may have."""
    allowed = site.array if site is not None else profile.max_array_size or USUAL_ARRAY
    return max(min(allowed, profile.max_array_size or allowed), 1)


def parse_config(text: str) -> dict[str, str]:
    """`scontrol show config` as names and values."""
    pairs = (line.split("=", 1) for line in text.splitlines() if "=" in line)
    return {name.strip(): value.strip() for name, value in pairs}


def parse_partitions(text: str) -> tuple[str, dict[str, str]]:
    """The default partition, and the QOS of those that have one, from `scontrol --oneliner show partition`."""
    default, found = "", {}
    for line in text.splitlines():
        words = dict(word.split("=", 1) for word in line.split() if "=" in word)
        name = words.get("PartitionName", "")
        default = name if words.get("Default") == "YES" else default
        if words.get("QoS", "N/A") not in ("N/A", ""):
            found[name] = words["QoS"]
    return default, found


def parse_user(text: str) -> tuple[str, tuple[Association, ...]]:
    """The default account and the associations, from sacctmgr's `account|account|partition|limit|QOS` lines."""
    rows = [line.split("|") for line in text.splitlines() if line.count("|") == 4]
    found = tuple(
        Association(account, partition, _number(jobs), qos) for _, account, partition, jobs, qos in rows
    )
    return rows[0][0] if rows else "", found


def parse_qos(text: str) -> dict[str, int]:
    """MaxSubmitJobsPerUser by QOS, from sacctmgr's `name|limit` lines; those without a limit are left out."""
    rows = (line.split("|") for line in text.splitlines() if line.count("|") == 1)
    return {name: int(jobs) for name, jobs in rows if jobs.isdigit()}


def _number(text: str | None) -> int | None:
    return int(text) if text and text.isdigit() else None


def _read(file: Path) -> Site | None:
    try:
        content: dict[str, Any] = json.loads(file.read_text())
        lines = tuple(Association(**one) for one in content.pop("associations"))
        return Site(**content, associations=lines)
    except (OSError, ValueError, TypeError, KeyError):
        return None
