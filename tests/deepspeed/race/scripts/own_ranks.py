"""Starts its ranks itself, as PyTorch's tutorials do, in the way that the first argument says."""

import os
import sys

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import worker

side = torch.cuda.Stream()


def train(rank, size, ordered, name="weight"):
    os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": "12355"}
    dist.init_process_group("nccl", init_method="tcp://localhost:12356", rank=rank, world_size=size)
    torch.manual_seed(rank)
    weight = torch.nn.Parameter(torch.ones(8, device=rank))
    optimizer = torch.optim.SGD([weight], lr=0.1)
    (weight * torch.rand(8, device=rank)).sum().backward()
    summed = weight.grad + 0
    if ordered:
        side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        work = dist.all_reduce(summed, async_op=True)
    work.wait()
    weight.grad.copy_(summed)
    optimizer.step()
    torch.save(weight.detach().cpu(), f"{sys.argv[2]}/{name}-{rank}.pt")
    dist.destroy_process_group()


def started(size, *args):
    processes = [mp.Process(target=train, args=(rank, size, *args)) for rank in range(size)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * size


if __name__ == "__main__":
    how = sys.argv[1]
    if how == "process":
        mp.set_start_method("spawn")
        started(2, False)
    elif how == "spawn":
        mp.spawn(train, args=(torch.cuda.device_count(), False), nprocs=torch.cuda.device_count())
    elif how == "twice":
        for folder in ("first", "second"):
            mp.spawn(train, args=(2, True, folder), nprocs=2)
            all_of_them = [torch.load(f"{sys.argv[2]}/{folder}-{rank}.pt") for rank in range(2)]
            assert torch.equal(*all_of_them)
    elif how == "helper":  # a process that is no rank stays one
        queue = mp.get_context("fork").SimpleQueue()
        helper = mp.get_context("fork").Process(target=worker.answer, args=(1, queue))
        helper.start()
        assert queue.get() == helper.pid != os.getpid()
        helper.join()
        mp.spawn(train, args=(2, True), nprocs=2)
    else:
        mp.spawn(train, args=(int(how), True), nprocs=int(how))
