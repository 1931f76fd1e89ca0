"""Adam's states and master weights that go to the host while a pass runs, as DeepCompile sends them between two steps.

DeepSpeed's own tasks do it, called in the order in which its compiled graph does; nothing is compiled here.
"""

import argparse
from types import SimpleNamespace

import torch
from deepspeed.accelerator import get_accelerator
from deepspeed.compile.passes import offload_adam_states as offload

parser = argparse.ArgumentParser()
parser.add_argument("what", choices=["exp_avg", "hp_param"])
parser.add_argument("--local_rank", type=int, default=0)
parser.add_argument("--steps", type=int, default=2)
args = parser.parse_args()
SIZE = 1024

torch.manual_seed(0)
master = torch.nn.Parameter(torch.randn(SIZE).to(get_accelerator().current_device_name()))
weight = master.detach().to(torch.bfloat16).requires_grad_()
optimizer = torch.optim.Adam([master], lr=1e-2, foreach=False)
on_host = get_accelerator().pin_memory(torch.zeros(SIZE))
offload.optimizer, offload.device = optimizer, master.device
offload.nz3 = SimpleNamespace(is_profiling=lambda: False)
offload.lazy_init()
STATE = (0, master, "exp_avg", SIZE * 4, torch.float32)
MASTER = (0, (master, on_host), "hp_param", SIZE * 4, torch.float32)
TASKS = [STATE] if args.what == "exp_avg" else [STATE, MASTER]
OLD = hasattr(offload, "make_offload_task")  # closures in the graph until 0.19.3, operators since


@torch.no_grad()
def send(task):
    if OLD:
        offload.make_offload_task(task)()
    else:
        offload._offload_opt_launch_impl(weight, offload._register_op_task(task))


@torch.no_grad()
def fetch(task):
    if OLD:
        offload.make_reload_task(task)()
    else:
        offload._reload_opt_impl(weight, offload._register_op_task(task))


def forward():
    for task in TASKS:
        send(task)
    loss = weight.float().pow(2).sum()
    if OLD:  # frees what has been sent; the operators do it by themselves
        for task in TASKS:
            offload.make_offload_sync(task)()
    return loss


def backward(loss):
    loss.backward()
    for task in TASKS:
        fetch(task)
    offload.copy_stream.synchronize()  # the graph's last node


def step():
    master.grad = weight.grad.float()
    optimizer.step()
    with torch.no_grad():
        weight.copy_(master)
    weight.grad = None


weight.float().pow(2).sum().backward()
step()  # the states are there from now on
for _ in range(args.steps):
    backward(forward())
    step()
print("final sum", weight.detach().float().sum().item())
