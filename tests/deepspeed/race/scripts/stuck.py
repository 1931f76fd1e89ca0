"""Programs that cannot end: run one with `hpz race --script tests/deepspeed/race/scripts/stuck.py NAME --ranks 2`."""

import sys
import time

import deepspeed
import deepspeed.comm as dist
import torch
from deepspeed.accelerator import get_accelerator

A = get_accelerator()
deepspeed.init_distributed(verbose=False)
x = torch.ones(8, device=A.current_device_name())


def mismatched() -> None:
    if dist.get_rank() == 0:
        dist.all_reduce(x)
    else:
        dist.broadcast(x, 0)
    A.synchronize()


def left_alone() -> None:
    if dist.get_rank() == 0:
        dist.all_reduce(x)
        A.synchronize()


def undeferrable() -> None:
    torch.library.define("lab::mystery", "(Tensor x) -> Tensor")
    torch.library.impl("lab::mystery", "cpu", torch.clone)
    torch.ops.lab.mystery(x)


def asleep() -> None:
    time.sleep(600)


def broken() -> None:
    raise KeyError("no such layer")


globals()[sys.argv[1]]()
