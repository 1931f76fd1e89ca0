"""Scripts that end in many ways, chosen by the first argument."""

import argparse
import os
import sys
import traceback

import deepspeed
import torch

parser = argparse.ArgumentParser()
parser.add_argument("how")
parser.add_argument("--local_rank", type=int, default=-1)
how = parser.parse_args().how
config = {"train_micro_batch_size_per_gpu": 1, "zero_optimization": {"stage": 2}, "bf16": {"enabled": True}}
config |= {"optimizer": {"type": "AdamW", "params": {"lr": 1e-3}}}


def bar_below_the_error():
    try:
        raise ValueError("the real reason")
    except ValueError:
        traceback.print_exc()
        print("\r  0%|          | 0/3 [00:00<?, ?it/s]", file=sys.stderr)
        sys.exit(1)


def train(engine, steps):
    for _ in range(steps):
        x = torch.ones(1, 8, dtype=torch.bfloat16, device=f"cuda:{parser.parse_args().local_rank}")
        engine.backward(engine(x).float().sum())
        engine.step()


if how == "graph":
    deepspeed.init_distributed()
    with torch.cuda.graph(torch.cuda.CUDAGraph()):
        pass
elif how == "bar":
    bar_below_the_error()
elif how == "alone":
    (torch.ones(2, device="cuda") + 1).sum().item()
elif how == "flash":
    from flash_attn import flash_attn_func

    flash_attn_func()
else:
    engine, *_ = deepspeed.initialize(model=torch.nn.Linear(8, 8), config=config)
    if how == "idle":
        pass
    elif how == "endless":
        train(engine, 1_000_000)
    elif how == "dies":
        train(engine, 2)
        if os.environ["RANK"] == "1":
            raise KeyError("no such layer")
        train(engine, 1)
    elif how == "rank0":
        train(engine, 1)
        if os.environ["RANK"] == "0":
            engine.save_checkpoint("out")
