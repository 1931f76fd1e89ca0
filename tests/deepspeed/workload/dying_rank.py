"""`python -m tests.deepspeed.workload.dying_rank RUN_DIRECTORY RANK TAG`: a rank is killed while it saves TAG."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch

from harness.workload.train import import_everything, run_rank
from tests.deepspeed.device.virtual_ranks import fork_ranks

WORLD = 2


def be_rank() -> None:
    save = torch.save

    def die(content: Any, place: Any, *args: Any, **kwargs: Any) -> None:
        if sys.argv[3] in str(place):
            os.kill(os.getpid(), signal.SIGKILL)
        save(content, place, *args, **kwargs)

    if os.environ["RANK"] == sys.argv[2]:
        torch.save = die
    run_rank(Path(sys.argv[1]))


if __name__ == "__main__":
    import_everything("cpu")
    fork_ranks(WORLD, be_rank)
