"""Whether this machine can run what a study asks of GPUs, said before anything is started or written."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache

from harness.budget import check_fits
from harness.hardware import card_called
from harness.study import Run
from harness.system.child import last_words
from harness.system.errors import HarnessError

PROBE = """
import json, torch
gpus = torch.cuda.device_count() if torch.version.cuda else 0
name = torch.cuda.get_device_name(0) if gpus else None
print(json.dumps({"torch": torch.__version__, "cuda": torch.version.cuda, "gpus": gpus, "name": name}))
"""


@dataclass(frozen=True)
class Gpus:
    """What torch sees: its own version, the CUDA release it was built with (None: without), how many GPUs."""

    torch: str
    cuda: str | None
    gpus: int
    name: str | None = None  # of the first


@lru_cache(maxsize=1)
def visible_gpus() -> Gpus:
    """Asked in a process of its own: the launcher neither imports torch nor starts CUDA. Raises HarnessError."""
    done = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise HarnessError(
            f"device cuda: torch cannot be asked for GPUs ({last_words(done.stderr)}); install a CUDA build of torch"
        )
    return Gpus(**json.loads(done.stdout.splitlines()[-1]))


def check_gpus(runs: Iterable[Run], seen: Callable[[], Gpus] = visible_gpus, gpu: str | None = None) -> None:
    """Refuse GPU runs that this machine cannot make, or would make as what they are not. Raises HarnessError.

    Whether they fit is asked of the card that is here or, where that is not known, of the profile `gpu`.
    """
    wanted = [run for run in runs if run.device == "cuda"]
    if not wanted:
        return
    across = next((run for run in wanted if run.evidence == "multi-node"), None)
    if across is not None:
        raise HarnessError(
            f"matrix.shape: {across.shape} on device cuda means {across.shape.nodes} machines; send it to a cluster "
            "(hpz submit), or set virtual_nodes: true to run all ranks here as evidence one-gpu"
        )
    found = seen()
    if found.cuda is None:
        raise HarnessError(
            f"device cuda: no GPU can be used here, torch {found.torch} was built without CUDA; run the study on a "
            "machine with a GPU, or use device: virtual"
        )
    if not found.gpus:
        raise HarnessError(
            f"device cuda: torch {found.torch} sees no GPU here; run the study on a machine with a GPU, or use "
            "device: virtual"
        )
    here = card_called(found.name)
    for ranks in sorted({run.shape.world_size for run in wanted}):
        alike = (run for run in wanted if run.shape.world_size == ranks)
        check_fits(alike, here[0] if here else gpu, ranks_a_card=-(-ranks // found.gpus))
