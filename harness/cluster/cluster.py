"""Bring a cluster up, reach into it, take it down; all that is known of it lies in one state file."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.cluster import network
from harness.cluster.needs import check_machine
from harness.cluster.spec import DATA_INTERFACE, Spec, control_address, data_address, link_rate
from harness.system.child import discard
from harness.system.errors import HarnessError
from harness.system.interface import sent_bytes
from harness.system.places import REPOSITORY
from harness.system.processes import stat_fields
from harness.system.whole_file import write_json

DEFAULT_NAME = "one-machine"
UP_SECONDS = 60.0
DOWN_SECONDS = 10.0


@dataclass(frozen=True)
class Node:
    """One node: its name, its addresses, and the process (inside the cluster) that holds its namespaces."""

    name: str
    address: str  # on the limited link
    control_address: str
    holder: int


@dataclass(frozen=True)
class Cluster:
    """A running cluster. `keeper` is the process, seen from outside, whose end is the cluster's end."""

    name: str
    folder: Path
    spec: Spec
    keeper: int
    keeper_started: int  # clock ticks since boot: tells a process from a later one with the same number
    process_space: int  # inode of the cluster's PID namespace
    userspace: bool  # made inside a user namespace, without root
    holders: tuple[int, ...]

    @classmethod
    def up(cls, spec: Spec, name: str = DEFAULT_NAME, owned: bool = False) -> Cluster:
        """Start a cluster; where `owned`, it ends with this process, however that ends.

        Raises HarnessError where this machine cannot hold one, one of this name is up, or a daemon fails.
        """
        userspace = check_machine()
        folder = cluster_folder(name)
        if (running := cls._read(folder)) is not None and running.alive():
            raise HarnessError(f"cluster {name!r} is up already; end it with: hpz cluster down --name {name}")
        shutil.rmtree(folder, ignore_errors=True)
        (folder / "log").mkdir(parents=True)
        keeper = _start_keeper(spec, folder, userspace, owned)
        try:
            holders = _await_report(keeper, folder)
            space = Path(f"/proc/{keeper.pid}/ns/pid_for_children").stat().st_ino
        except BaseException:
            _KEPT.remove(keeper)
            discard(keeper)
            raise
        started = _start_time(keeper.pid)
        return cls(name, folder, spec, keeper.pid, started, space, userspace, tuple(holders))._saved()

    @classmethod
    def find(cls, name: str = DEFAULT_NAME) -> Cluster:
        """The cluster of this name. Raises HarnessError when it is not up."""
        cluster = cls._read(cluster_folder(name))
        if cluster is None or not cluster.alive():
            raise HarnessError(f"cluster {name!r} is not up; start it with: hpz cluster up --name {name}")
        return cluster

    @classmethod
    def _read(cls, folder: Path) -> Cluster | None:
        try:
            state: dict[str, Any] = json.loads((folder / "cluster.json").read_text())
            known = {"spec": Spec(**state["spec"]), "folder": folder, "holders": tuple(state["holders"])}
            return cls(**{**state, **known})
        except (OSError, ValueError, TypeError):
            return None

    def _saved(self) -> Cluster:
        write_json(self.folder / "cluster.json", {**dataclasses.asdict(self), "folder": str(self.folder)})
        return self

    @property
    def nodes(self) -> list[Node]:
        return [
            Node(name, data_address(index), control_address(index), self.holders[index])
            for index, name in enumerate(self.spec.node_names)
        ]

    def alive(self) -> bool:
        return _start_time(self.keeper) == self.keeper_started

    def prefix(self, node: str | None = None) -> list[str]:
        """Words before a command that run it where slurmctld and the clients live, or inside a node."""
        own = f"/proc/{self.keeper}/ns"
        user = [f"--user={own}/user", "--preserve-credentials"] if self.userspace else []
        inside = [
            f"--net={own}/net",
            f"--mount={own}/mnt",
            f"--uts={own}/uts",
            f"--pid={own}/pid_for_children",
        ]
        further = network.enter_node(self._node(node).holder) if node else ()
        home = f"--chdir={Path.cwd()}"  # entering a mount namespace leaves one at its root
        return [
            "nsenter",
            *user,
            *inside,
            "--",
            "env",
            home,
            f"SLURM_CONF={self.folder}/slurm.conf",
            *further,
        ]

    def run(
        self, command: Sequence[str], node: str | None = None, **options: Any
    ) -> subprocess.CompletedProcess[str]:
        """Run a command among the SLURM clients, or inside a node; output is captured as text.

        Raises subprocess.TimeoutExpired after 60 s unless `timeout` says otherwise; `check` is off by default.
        """
        options = {"capture_output": True, "text": True, "timeout": 60, "check": False} | options
        return subprocess.run([*self.prefix(node), *command], **options)

    def _node(self, name: str) -> Node:
        for node in self.nodes:
            if node.name == name:
                return node
        raise HarnessError(
            f"cluster {self.name!r} has no node {name!r}; it has {', '.join(self.spec.node_names)}"
        )

    def wire_bytes(self, node: str) -> int:
        """Bytes that a node has put on its data link since the start, headers included."""
        done = self.run(["cat", f"/proc/{self._node(node).holder}/net/dev"], check=True)
        return sent_bytes(done.stdout, DATA_INTERFACE)

    def set_link(self, link: str | None) -> Cluster:
        """Change the rate of every node's data link while jobs run; None lifts the limit."""
        link_rate(link)
        for node in self.nodes:
            self.run(network.limit_command(node.holder, link), check=True)
        return dataclasses.replace(self, spec=dataclasses.replace(self.spec, link=link))._saved()

    def kill_node(self, node: str) -> None:
        """End a node's slurmd at once, as a crash would, and see it gone; its jobs' processes stay."""
        self._kill_daemon(f"slurmd-{self._node(node).name}")

    def start_node(self, node: str) -> None:
        """Start a node's slurmd again."""
        command = ["slurmd", "-N", self._node(node).name, "-f", str(self.folder / "slurm.conf")]
        self.run(command, node=node, check=True)

    def kill_controller(self) -> None:
        """End slurmctld at once, as a crash would, and see it gone; nodes and their jobs go on."""
        self._kill_daemon("slurmctld")

    def start_controller(self) -> None:
        """Start slurmctld again; it goes on from the state that it had saved."""
        self.run(["slurmctld", "-f", str(self.folder / "slurm.conf")], check=True)

    def _kill_daemon(self, name: str) -> None:
        pid = (self.folder / f"{name}.pid").read_text().strip()
        self.run(["kill", "-9", pid])
        while self.run(["kill", "-0", pid]).returncode == 0:  # until process 1 has reaped it
            time.sleep(0.02)

    def states(self) -> dict[str, str]:
        """SLURM's word for the state of each node."""
        command = ["sinfo", "--noheader", "--Node", "--partition=main", "--format=%N %t"]
        lines = self.run(command, timeout=20).stdout.splitlines()
        return dict(line.split(maxsplit=1) for line in lines if line.strip())

    @classmethod
    def end(cls, name: str = DEFAULT_NAME) -> bool:
        """Take the cluster of this name down, or clear what a killed one left; returns whether it was up."""
        folder = cluster_folder(name)
        cluster = cls._read(folder)
        was_up = cluster is not None and cluster.alive()
        if cluster is not None:
            cluster.down()
        shutil.rmtree(folder, ignore_errors=True)
        return was_up

    def down(self) -> None:
        """End the cluster with everything in it, and remove its folder."""
        if self.alive():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.keeper, signal.SIGKILL)
        for keeper in [kept for kept in _KEPT if kept.pid == self.keeper]:
            _KEPT.remove(keeper)
            discard(keeper)  # else it stays a zombie of this process
        deadline = time.monotonic() + DOWN_SECONDS
        while _processes_of(self.process_space) and time.monotonic() < deadline:
            time.sleep(0.02)
        shutil.rmtree(self.folder, ignore_errors=True)


@contextlib.contextmanager
def temporary_cluster(spec: Spec, name: str | None = None) -> Iterator[Cluster]:
    """A cluster for the length of a `with` block; it ends with this process too."""
    for left in clusters_root().glob("temporary-*/cluster.json"):  # by owners that were killed
        if (other := Cluster._read(left.parent)) is not None and not other.alive():
            shutil.rmtree(left.parent, ignore_errors=True)
    cluster = Cluster.up(spec, name or f"temporary-{os.getpid()}-{time.time_ns() % 10**6}", owned=True)
    try:
        yield cluster
    finally:
        cluster.down()


def usual_link() -> str | None:
    """For a program inside a cluster: the rate of its data links while no job sets another; None: not limited."""
    cluster = Cluster._read(Path(os.environ.get("SLURM_CONF", "")).parent)
    return cluster.spec.link if cluster else None


def clusters() -> list[Cluster]:
    """All clusters of this user that are up."""
    found = (Cluster._read(file.parent) for file in sorted(clusters_root().glob("*/cluster.json")))
    return [cluster for cluster in found if cluster is not None and cluster.alive()]


def clusters_root() -> Path:
    """Short, because the paths of sockets may have 107 bytes at most."""
    return Path(os.environ.get("HPZ_CLUSTERS") or f"{tempfile.gettempdir()}/hpz-{os.getuid()}")


def cluster_folder(name: str) -> Path:
    """Where a cluster's files lie. Raises HarnessError on a name that is no plain file name."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,39}", name):
        raise HarnessError(f"--name {name!r}: use up to 40 letters, digits, - and _")
    root = clusters_root()
    root.mkdir(mode=0o755, parents=True, exist_ok=True)
    if root.stat().st_uid != os.getuid():
        raise HarnessError(f"{root} belongs to another user; set HPZ_CLUSTERS to a folder of yours")
    return root / name


def _start_keeper(spec: Spec, folder: Path, userspace: bool, owned: bool) -> subprocess.Popen[bytes]:
    """unshare(1) holding the namespaces open; its death kills process 1 inside, and with it everything."""
    user = ["--user", "--map-root-user", "--map-auto"] if userspace else []
    namespaces = ["--net", "--mount", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc"]
    inner = [sys.executable, "-m", "harness.cluster.init", str(folder), json.dumps(dataclasses.asdict(spec))]
    with (folder / "log" / "init.txt").open("wb") as errors:
        keeper = subprocess.Popen(
            ["unshare", *user, *namespaces, *inner, *(["owned"] if owned else [])],
            stdin=subprocess.PIPE if owned else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            cwd="/",
            env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
            start_new_session=True,
        )
    _KEPT.append(keeper)
    return keeper


# Those that this process has started: holds the pipes open whose closing ends the owned clusters.
_KEPT: list[subprocess.Popen[bytes]] = []


def _await_report(keeper: subprocess.Popen[bytes], folder: Path) -> list[int]:
    """The nodes' holders, once all is up. Raises HarnessError with the failed daemon's last words."""
    assert keeper.stdout is not None
    ready, _, _ = select.select([keeper.stdout], [], [], UP_SECONDS)
    line = keeper.stdout.readline() if ready else b""
    keeper.stdout.close()
    report = (
        json.loads(line)
        if line
        else {"error": (folder / "log" / "init.txt").read_text(errors="replace").strip()}
    )
    if "error" in report:
        raise HarnessError(
            f"the cluster did not come up: {report['error'] or 'no answer'}; its logs: {folder}/log"
        )
    return list(report["holders"])


def _start_time(pid: int) -> int:
    """Start of a live process in clock ticks since boot; 0 where there is none, or only its zombie."""
    try:
        fields = stat_fields(pid)
    except OSError:
        return 0
    return 0 if fields[0] == "Z" else int(fields[19])


def _processes_of(space: int) -> list[int]:
    """Live processes in a PID namespace."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (entry / "ns" / "pid").stat().st_ino == space and _start_time(int(entry.name)):
                found.append(int(entry.name))
    return found
