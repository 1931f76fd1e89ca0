"""What a cluster is to be (`Spec`), and the SLURM configuration files that follow from it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from harness.study import bits_per_second
from harness.study.axes import LINK
from harness.system.errors import HarnessError

CONTROLLER = "controller"
CONTROL_ADDRESS = "10.78.0.1"
DATA_INTERFACE = "eth0"  # inside a node
CONTROL_INTERFACE = "mgmt0"


@dataclass(frozen=True, kw_only=True)
class Spec:
    """Size of a cluster. Raises HarnessError on values that no cluster can have."""

    nodes: int = 2
    cpus: int = 4  # that each node offers to SLURM; may exceed what the machine has
    gpus: int = 0  # fake ones: counted and handed out by SLURM, of no use to CUDA
    link: str | None = None  # rate of each node's data link in tc's words; None: not limited
    down_after: int = 30  # seconds without answer until SLURM gives a node up

    def __post_init__(self) -> None:
        if not 1 <= self.nodes <= 64:
            raise HarnessError(f"--nodes {self.nodes}: one machine can hold 1 to 64 nodes")
        if not 1 <= self.cpus <= 256:
            raise HarnessError(f"--cpus {self.cpus}: a node can offer 1 to 256 CPUs")
        if not 0 <= self.gpus <= 8:
            raise HarnessError(f"--gpus {self.gpus}: a node can offer 0 to 8 fake GPUs")
        link_rate(self.link)

    @property
    def node_names(self) -> list[str]:
        return [f"n{index}" for index in range(self.nodes)]


def link_rate(link: str | None) -> float | None:
    """A link's rate in bit/s; None: not limited. Raises HarnessError on anything but, say, 200mbit."""
    if link is None:
        return None
    if not LINK.fullmatch(link):
        raise HarnessError(
            f"--link {link}: not a rate; write for example 50mbit, 200mbit, 1gbit or unlimited"
        )
    return bits_per_second(link)


def data_address(index: int) -> str:
    """Address of a node's limited link, over which the ranks speak."""
    return f"10.77.0.{10 + index}"


def control_address(index: int) -> str:
    """Address of a node's unlimited link, over which SLURM speaks."""
    return f"10.78.0.{10 + index}"


def hosts_file(spec: Spec) -> str:
    """/etc/hosts of the nodes: names lead to the limited link, so that MASTER_ADDR and gloo use it unasked."""
    lines = [f"{data_address(index)} {name}" for index, name in enumerate(spec.node_names)]
    return "\n".join(["127.0.0.1 localhost", f"{CONTROL_ADDRESS} {CONTROLLER}", *lines]) + "\n"


def slurm_conf(spec: Spec, folder: Path) -> str:
    """slurm.conf for daemons that run as one user, without cgroups and without accounting."""
    gres = f" Gres=gpu:{spec.gpus}" if spec.gpus else ""
    nodes = [
        f"NodeName={name} NodeAddr={control_address(index)} CPUs={spec.cpus} RealMemory=4000{gres} State=UNKNOWN"
        for index, name in enumerate(spec.node_names)
    ]
    return "\n".join(
        [*_settings(spec, folder), *(["GresTypes=gpu"] if spec.gpus else []), *nodes, *_partitions()]
    )


def _settings(spec: Spec, folder: Path) -> list[str]:
    return [
        "ClusterName=hpz",
        f"SlurmctldHost={CONTROLLER}({CONTROL_ADDRESS})",
        "SlurmUser=root",
        "SlurmdUser=root",
        "AuthType=auth/munge",
        "CredType=cred/munge",
        f"AuthInfo=socket={folder}/munge/socket,cred_expire=5",  # a requeued job then waits 6 s, not 2 min
        f"StateSaveLocation={folder}/state",
        f"SlurmdSpoolDir={folder}/spool/%n",
        f"SlurmctldPidFile={folder}/slurmctld.pid",
        f"SlurmdPidFile={folder}/slurmd-%n.pid",
        f"SlurmctldLogFile={folder}/log/slurmctld.log",
        f"SlurmdLogFile={folder}/log/slurmd-%n.log",
        "ProctrackType=proctrack/linuxproc",
        "TaskPlugin=task/none",
        "JobAcctGatherType=jobacct_gather/none",
        "AccountingStorageType=accounting_storage/none",
        "MpiDefault=none",
        "SwitchType=switch/none",
        "SelectType=select/cons_tres",
        "SelectTypeParameters=CR_Core",
        "SchedulerParameters=bf_interval=1,sched_interval=1,sched_min_interval=0,batch_sched_delay=0",
        "SlurmdParameters=config_overrides",
        "ReturnToService=2",
        f"SlurmdTimeout={spec.down_after}",
        "KillWait=10",  # seconds from SIGTERM to SIGKILL: enough for a toy run's checkpoint
        "MinJobAge=3600",  # without accounting, squeue alone remembers how a job ended
        "MaxArraySize=10001",
        "JobRequeue=1",
        "PreemptType=preempt/partition_prio",
        "PreemptMode=CANCEL",  # of partition `spare` alone
        "EnforcePartLimits=ALL",  # refuse at submission what no node or partition allows
        f"PlugStackConfig={folder}/plugstack.conf",
    ]


def _partitions() -> list[str]:
    return [
        "PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE PriorityTier=10 PreemptMode=OFF State=UP",
        # For trying out how a refusal reads: without accounting no account is a member.
        "PartitionName=members Nodes=ALL AllowAccounts=members MaxTime=INFINITE PreemptMode=OFF State=UP",
        # For trying out preemption that does not requeue: a job of `main` ends one of this partition.
        "PartitionName=spare Nodes=ALL MaxTime=INFINITE PriorityTier=1 PreemptMode=CANCEL State=UP",
        "",
    ]
