"""What the kernel says of a process, and whether a child has ended."""

from __future__ import annotations

import os
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")


def stat_fields(pid: int) -> list[str]:
    """/proc/PID/stat from the state on: state, parent, group, session, … (proc(5)). Raises OSError once it is gone."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def processor_seconds(fields: list[str]) -> float:
    """User and system time of a process so far, of its stat_fields."""
    return (int(fields[11]) + int(fields[12])) / TICKS


def has_ended(pid: int) -> bool:
    """Whether a child is but a zombie; it stays one, so that its number is not given to another."""
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
