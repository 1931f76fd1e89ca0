"""Process 1 of a cluster's namespaces: builds the network, starts the daemons, reports once, then only reaps.

Started by Cluster.up through unshare(1). When it ends, for whatever reason, the kernel ends all that it started.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from harness.cluster import network
from harness.cluster.spec import CONTROLLER, Spec, hosts_file, slurm_conf
from harness.system.parent import Parent

START_SECONDS = 40.0
REAP_SECONDS = 0.2


class StartFailed(Exception):
    """A daemon did not come up; the text holds its last words."""


def main() -> None:
    """`python -m harness.cluster.init FOLDER SPEC_JSON [owned]`: the only line on standard output is the report."""
    folder, spec = Path(sys.argv[1]), Spec(**json.loads(sys.argv[2]))
    starter = Parent()
    try:
        report: dict[str, Any] = {"holders": start(spec, folder)}
    except Exception as error:
        report = {"error": str(error)}
    starter.answer(report)  # where nobody is left to hear it, the cluster ends here
    if "error" not in report:
        serve(starter if "owned" in sys.argv[3:] else None)


def serve(owner: Parent | None) -> None:
    """Reap what ends, for ever; where the cluster has an owner, until that has died."""
    while True:
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        if owner is None:
            time.sleep(REAP_SECONDS)
        elif owner.speaks_within(REAP_SECONDS):
            return


def start(spec: Spec, folder: Path) -> list[int]:
    """Bring everything up; returns each node's holder process. Raises StartFailed."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    subprocess.run(["hostname", CONTROLLER], check=True)
    write_files(spec, folder)
    network.build_bridges()
    subprocess.run(["mount", "--bind", str(folder / "hosts"), "/etc/hosts"], check=True)
    holders = [start_node(spec, folder, index) for index in range(spec.nodes)]
    start_munge(folder)
    daemons = {"slurmctld": spawn(["slurmctld", "-D", "-f", str(folder / "slurm.conf")], folder, "slurmctld")}
    for name, holder in zip(spec.node_names, holders, strict=True):
        daemons[name] = spawn(slurmd(name, holder, folder), folder, f"slurmd-{name}")
    wait_until_idle(spec, folder, daemons)
    return holders


def write_files(spec: Spec, folder: Path) -> None:
    for name in ("state", "log", "munge", "dev", *(f"spool/{node}" for node in spec.node_names)):
        (folder / name).mkdir(parents=True, exist_ok=True)
    files = {
        "hosts": hosts_file(spec),
        "slurm.conf": slurm_conf(spec, folder),
        "cgroup.conf": "CgroupPlugin=cgroup/v1\n",
        "plugstack.conf": "",
    }
    if spec.gpus:
        files["gres.conf"] = f"AutoDetect=off\nName=gpu File={fake_gpus(spec.gpus, folder)}\n"
    for name, text in files.items():
        (folder / name).write_text(text)


def fake_gpus(count: int, folder: Path) -> str:
    """Device files for SLURM to hand out: copies of /dev/null, or terminals where mknod is not allowed."""
    try:
        for index in range(count):
            os.mknod(folder / "dev" / f"nvidia{index}", 0o20666, os.makedev(1, 3))
    except OSError:
        return f"/dev/tty[0-{count - 1}]"
    return f"{folder}/dev/nvidia[0-{count - 1}]"


def start_node(spec: Spec, folder: Path, index: int) -> int:
    """A process that does nothing but hold a node's namespaces open, so that slurmd may die and come back."""
    script = (
        f"hostname n{index} && mount --bind '{folder}/hosts' /etc/hosts"
        " && (mount -t sysfs sysfs /sys 2>/dev/null || true)"  # NCCL looks there; not allowed in some containers
        " && echo up && exec sleep infinity"
    )
    command = ["unshare", "--net", "--mount", "--uts", "sh", "-c", script]
    holder = subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL)
    assert holder.stdout is not None
    if not holder.stdout.readline():
        raise StartFailed(f"node n{index}: its namespaces cannot be made (exit code {holder.wait()})")
    network.attach_node(index, holder.pid)
    subprocess.run(network.limit_command(holder.pid, spec.link), check=True)
    return holder.pid


def slurmd(name: str, holder: int, folder: Path) -> list[str]:
    """The command that runs a node's daemon."""
    return [*network.enter_node(holder), "slurmd", "-D", "-N", name, "-f", str(folder / "slurm.conf")]


def start_munge(folder: Path) -> None:
    """munged with a key of its own; it returns once it serves."""
    key = folder / "munge" / "key"
    key.write_bytes(secrets.token_bytes(128))
    key.chmod(0o400)
    options = {
        "key-file": "key",
        "socket": "socket",
        "pid-file": "pid",
        "log-file": "log",
        "seed-file": "seed",
    }
    command = [
        "munged",
        *(f"--{option}={folder}/munge/{name}" for option, name in options.items()),
        "--force",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise StartFailed(f"munged: {' '.join(done.stderr.split())}")


def spawn(command: list[str], folder: Path, name: str) -> subprocess.Popen[bytes]:
    with (folder / "log" / f"{name}.out").open("wb") as out:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
            env={**os.environ, "SLURM_CONF": str(folder / "slurm.conf")},
        )


def wait_until_idle(spec: Spec, folder: Path, daemons: dict[str, subprocess.Popen[bytes]]) -> None:
    """Raises StartFailed as soon as a daemon has ended, or after START_SECONDS."""
    deadline = time.monotonic() + START_SECONDS
    states: list[str] = []
    while states != ["idle"] * spec.nodes:
        for name, process in daemons.items():
            if process.poll() is not None:
                raise StartFailed(f"{name} ended with code {process.returncode}: {last_words(folder, name)}")
        if time.monotonic() > deadline:
            raise StartFailed(
                f"nodes not idle after {START_SECONDS:g} s: {states}: {last_words(folder, 'slurmctld')}"
            )
        time.sleep(0.1)
        command = ["sinfo", "--noheader", "--Node", "--partition=main", "--format=%t"]
        states = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
            env={**os.environ, "SLURM_CONF": str(folder / "slurm.conf")},
        ).stdout.split()


def last_words(folder: Path, name: str) -> str:
    files = [
        folder / "log" / f"{prefix}{name}{suffix}"
        for prefix in ("", "slurmd-")
        for suffix in (".out", ".log")
    ]
    lines = [
        line for file in files if file.exists() for line in file.read_text(errors="replace").splitlines()
    ]
    return " | ".join([line for line in lines if "error" in line or "fatal" in line][-3:] or lines[-3:])


if __name__ == "__main__":
    main()
