"""What this machine is called."""

from __future__ import annotations

import os
import platform


def node_name() -> str:
    """As SLURM calls it where SLURM has started this process, which need not be what the machine calls itself."""
    return os.environ.get("SLURMD_NODENAME") or platform.node()
