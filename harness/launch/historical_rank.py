"""One rank of the historical cross-check: a toy network under whatever DeepSpeed comes first on PYTHONPATH."""

from __future__ import annotations

import json
import os
import sys
from typing import Any


def main(hidden: int, hpz: int, steps: int) -> None:
    """Trains for `steps` steps and prints rank 0's losses as one line of JSON."""
    import deepspeed
    import torch

    torch.set_num_threads(1)
    # Fills fresh memory with NaN, so that an element nobody wrote cannot pass for a number by luck.
    torch.use_deterministic_algorithms(True, warn_only=True)
    deepspeed.init_distributed(dist_backend="gloo")
    torch.manual_seed(7)
    model = _network(hidden)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, foreach=False)
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=_config(hpz))
    rank = int(os.environ["RANK"])
    generator = torch.Generator().manual_seed(99)
    losses = []
    for _ in range(steps):
        tokens = torch.randint(0, 64, (8, 16), generator=generator)[2 * rank : 2 * rank + 2]
        loss = torch.nn.functional.cross_entropy(engine(tokens).transpose(1, 2), tokens)
        engine.backward(loss)
        engine.step()
        losses.append(loss.item())
    if rank == 0:
        print("LOSSES " + json.dumps(losses), flush=True)
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def _network(hidden: int) -> Any:
    from torch.nn import GELU, Embedding, Linear, Sequential

    layers = [Sequential(Linear(hidden, hidden), GELU()) for _ in range(3)]
    return Sequential(Embedding(64, hidden), *layers, Linear(hidden, 64))


def _config(hpz: int) -> dict[str, Any]:
    zero = {
        "stage": 3,
        "zero_hpz_partition_size": hpz,
        "overlap_comm": True,
        "stage3_param_persistence_threshold": 0,
        "stage3_prefetch_bucket_size": 1000,
        "stage3_max_reuse_distance": 0,
    }
    return {
        "train_micro_batch_size_per_gpu": 2,
        "gradient_clipping": 1.0,
        "steps_per_print": 10**9,
        "zero_allow_untested_optimizer": True,
        "zero_optimization": zero,
    }


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:]))
