"""What one node says of itself before a group starts: cards, memory, disk and clock.

`srun … python -m harness.launch.slurm.node FOLDER RESULTS`, by the words that start the ranks, so that it sees what
they will see; the first rank of each node answers, in FOLDER/NODE.json. A node that does not answer has said enough.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from harness.launch.slurm.nvidia_smi import Cards, Gpu, ask_cards, ask_kernel
from harness.system.node import node_name
from harness.system.whole_file import write_json


@dataclass(frozen=True)
class Facts:
    """What a node says; sizes in 10⁹ bytes."""

    node: str  # as SLURM calls it
    time: float  # of its clock when it answered, in seconds since 1970
    memory_free_gb: float | None
    tmp_free_gb: float
    results_free_gb: float
    cards: Cards | None = None  # None: no nvidia-smi there
    xids: tuple[str, ...] = ()

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Facts:
        cards = content["cards"]
        known = cards and Cards(
            tuple(Gpu(**{**gpu, "troubles": tuple(gpu["troubles"])}) for gpu in cards["gpus"]),
            cards["problem"],
        )
        return cls(**{**content, "cards": known, "xids": tuple(content["xids"])})


def look(results: Path) -> Facts:
    """What can be said of this node, now."""
    cards = ask_cards()
    return Facts(
        node=node_name(),
        time=time.time(),
        memory_free_gb=memory_free(Path("/proc/meminfo").read_text()),
        tmp_free_gb=shutil.disk_usage(tempfile.gettempdir()).free / 1e9,
        results_free_gb=shutil.disk_usage(results).free / 1e9,
        cards=cards,
        xids=tuple(ask_kernel()) if cards else (),
    )


def memory_free(meminfo: str) -> float | None:
    """What Linux thinks can still be had, in 10⁹ bytes, from the text of /proc/meminfo."""
    for line in meminfo.splitlines():
        name, _, rest = line.partition(":")
        if name == "MemAvailable":
            return int(rest.split()[0]) * 1024 / 1e9
    return None


def main() -> None:
    folder, results = Path(sys.argv[1]), Path(sys.argv[2])
    if os.environ.get("SLURM_LOCALID", "0") == "0":
        write_json(folder / f"{node_name()}.json", asdict(look(results)))


if __name__ == "__main__":
    main()
