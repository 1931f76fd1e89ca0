"""One rank that gathers on a side stream what a held-up compute stream has yet to write, with and without an event.

`python -m tests.gpu.window_ranks`, with RANK and its kin in the environment; prints what each gather read.
"""

from __future__ import annotations

import os

import torch

HOLD_US = 50_000


def gathered(backend: object, ordered: bool) -> str:
    """`old` or `new`: what the gather found in a tensor whose new value the compute stream writes after a delay."""
    from harness.device.stall import StallCopies, cycles_per_microsecond

    secondary = torch.zeros(256, device="cuda")
    fresh = torch.ones(256, device="cuda")
    out = torch.empty(512, device="cuda")
    side = torch.cuda.Stream()
    cycles = HOLD_US * cycles_per_microsecond()
    torch.cuda.synchronize()
    with StallCopies(cycles) as stalls:
        secondary.copy_(fresh)
    assert stalls.stalls == 1
    if ordered:
        side.wait_event(torch.cuda.current_stream().record_event())
    with torch.cuda.stream(side):
        backend.all_gather_into_tensor(out, secondary, async_op=True).wait()  # type: ignore[attr-defined]
    torch.cuda.current_stream().wait_stream(side)
    return "new" if bool((out == 1).all()) else "old"


def main() -> None:
    from harness.device import open_device

    device = open_device("cuda")
    device.rendezvous()
    device.connect()
    from deepspeed.comm import comm

    gathered(comm.cdb, ordered=True)  # pinned memory and kernels are there from now on
    print("unordered", gathered(comm.cdb, ordered=False))
    print("ordered", gathered(comm.cdb, ordered=True))
    print("gpu", torch.cuda.current_device(), "LOCAL_RANK", os.environ["LOCAL_RANK"], flush=True)
    torch.distributed.barrier()
    os._exit(0)


if __name__ == "__main__":
    main()
