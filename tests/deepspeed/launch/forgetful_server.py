"""Ranks that load a checkpoint as most scripts do: nothing asks for hpZ's secondary partitions to be made anew."""

from __future__ import annotations

import harness.workload.checkpoints
from harness.launch.forkserver import main

if __name__ == "__main__":
    harness.workload.checkpoints.forget_secondary_partitions = lambda engine: None
    main()
