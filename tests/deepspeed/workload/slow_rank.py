"""`python -m tests.deepspeed.workload.slow_rank RUN_DIRECTORY RANK`: trains a run on plain CPU, one rank really slow.

That rank sleeps before each forward pass for as long as the rest of a step takes, however busy the machine is.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from torch.nn.modules.module import register_module_forward_pre_hook

from harness.workload.train import import_everything, run_rank
from tests.deepspeed.device.virtual_ranks import fork_ranks

WORLD = 3


def be_rank() -> None:
    from transformers import PreTrainedModel

    woke: list[float] = []

    def sleep(module: object, inputs: object) -> None:
        if isinstance(module, PreTrainedModel) and module.get_output_embeddings() is not None:
            if woke:
                time.sleep(time.perf_counter() - woke.pop())
            woke.append(time.perf_counter())

    if os.environ["RANK"] == sys.argv[2]:
        register_module_forward_pre_hook(sleep)
    run_rank(Path(sys.argv[1]))


def main() -> None:
    import_everything("cpu")
    fork_ranks(WORLD, be_rank)


if __name__ == "__main__":
    main()
