"""Sends a task that is running again, to other nodes: what SLURM takes of that, and in which order.

A running job's ExcNodeList cannot be changed ("Job is no longer pending execution"), a requeued one's can, while its
script has not ended yet: SLURM 22.05 and later. That script gets SIGTERM meanwhile, as do all that it has started.
"""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Collection, Sequence
from pathlib import Path

from harness.launch.slurm.srun import Allocation

COMMAND_SECONDS = 60.0


def place_without(script: Path, nodes: Sequence[str]) -> str | None:
    """Whether SLURM has nodes for a batch script without these, now or later: None, or why not in its words."""
    code, said = _run(["sbatch", "--test-only", f"--exclude={','.join(nodes)}", str(script)])
    return (said or f"sbatch ended with code {code}") if code else None


def send_elsewhere(allocation: Allocation, nodes: Sequence[str], ours: Collection[str]) -> str | None:
    """Requeue this task, to start without `nodes`, and so its array's tasks that wait; None, or why that failed.

    Those that wait come first: once this task ends, one of them may start. `ours` are all nodes that the study has ever
    left out: what else SLURM was told to exclude stays excluded.
    """
    before = _excluded(allocation.job)
    kept = [node for node in before if node not in ours]
    array = allocation.job.partition("_")[0]
    quiet = "2>/dev/null"  # the array's id means those that run, too, and they refuse
    lines = [
        "trap '' TERM",  # it comes with the requeue, and would end the rest
        f"{_leave_out(array, [*kept, *nodes])} {quiet}",
        f"scontrol requeue {allocation.job} || {{ {_leave_out(array, before)} {quiet}; exit 1; }}",
        _leave_out(allocation.job, [*kept, *nodes]),
        "exit 0",
    ]
    code, said = _run(["sh", "-c", "\n".join(lines)])
    return (said or f"scontrol ended with code {code}") if code else None


def _leave_out(job: str, nodes: Sequence[str]) -> str:
    names = ",".join(dict.fromkeys(nodes))
    return shlex.join(["scontrol", "update", f"jobid={job}", f"excnodelist={names}"])


def _excluded(job: str) -> list[str]:
    """Nodes that SLURM leaves out for a job, one by one."""
    _, said = _run(["scontrol", "show", "job", "--oneliner", job])
    match = re.search(r"\bExcNodeList=(\S+)", said)
    return [] if match is None or match[1] == "(null)" else list(host_names(match[1]))


def host_names(nodes: str) -> tuple[str, ...]:
    """`n[0-1],m3` as n0, n1 and m3; empty where SLURM cannot be asked."""
    code, names = _run(["scontrol", "show", "hostnames", nodes])
    return () if code else tuple(names.split())


def _run(command: list[str]) -> tuple[int, str]:
    """A command's exit code, and what it said on one line."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=COMMAND_SECONDS)
    except FileNotFoundError:
        return 127, f"{command[0]} is not installed on the nodes"
    except subprocess.TimeoutExpired:
        return 1, f"{command[0]} did not answer within {COMMAND_SECONDS:g} s"
    return done.returncode, " ".join((done.stdout + done.stderr).split())
