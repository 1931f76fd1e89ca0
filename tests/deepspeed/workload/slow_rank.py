"""`python -m tests.deepspeed.workload.slow_rank RUN_DIRECTORY RANK`: trains a run on plain CPU, one rank really slow.

Each forward pass of that rank takes 50 ms more.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from torch.nn.modules.module import register_module_forward_pre_hook

from harness.workload.train import import_everything, run_rank
from tests.deepspeed.device.virtual_ranks import fork_ranks


def be_rank() -> None:
    from transformers import PreTrainedModel

    def wait(module: object, inputs: object) -> None:
        if isinstance(module, PreTrainedModel) and module.get_output_embeddings() is not None:
            time.sleep(0.05)

    if os.environ["RANK"] == sys.argv[2]:
        register_module_forward_pre_hook(wait)
    run_rank(Path(sys.argv[1]))


def main() -> None:
    import_everything("cpu")
    fork_ranks(3, be_rank)


if __name__ == "__main__":
    main()
