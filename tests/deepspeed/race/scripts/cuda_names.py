"""What scripts for CUDA ask of torch, each alone: a line `OK name` or `FAIL name why` for each in the log."""

import io
import os
import threading

import deepspeed
import torch
import torch.distributed as dist

deepspeed.init_distributed()
rank, world = int(os.environ["LOCAL_RANK"]), int(os.environ["WORLD_SIZE"])
torch.cuda.set_device(rank)
CHECKS = []


def check(function):
    CHECKS.append(function)
    return function


@check
def device_strings():
    for x in (torch.ones(2, device="cuda"), torch.ones(2).cuda(), torch.ones(2).to(f"cuda:{rank}")):
        assert x.is_cuda and x.device == torch.device("cuda", rank) and x.get_device() == rank
    assert not torch.ones(2).is_cuda and torch.ones(2, device="cuda").cpu().device.type == "cpu"


@check
def devices():
    assert torch.cuda.is_available() and torch.cuda.device_count() == world
    assert torch.cuda.current_device() == rank and torch.cuda.get_device_capability() >= (8, 0)
    assert torch.cuda.get_device_properties(rank).total_memory > 2**30 and torch.version.cuda
    assert torch.backends.cuda.is_built() and torch.accelerator.current_accelerator().type == "cuda"


@check
def device_numbers():
    number = torch.cuda.current_device()
    module = torch.nn.Linear(2, 2)
    assert module.to(number).weight.is_cuda
    assert torch.nn.Linear(2, 2).to(device=number, dtype=torch.float64).weight.dtype is torch.float64


@check
def default_device():
    torch.set_default_device("cuda")
    try:
        assert torch.ones(1).is_cuda
    finally:
        torch.set_default_device(None)
    with torch.device("cuda"):
        assert torch.nn.Linear(2, 2).weight.is_cuda


@check
def memory_statistics():
    before = torch.cuda.memory_allocated()
    block = torch.ones(1 << 20, device="cuda")
    assert torch.cuda.memory_allocated() == before + 4 * 2**20
    assert torch.cuda.max_memory_allocated() >= before + 4 * 2**20
    del block
    torch.cuda.empty_cache()
    assert torch.cuda.memory_allocated() == before
    assert torch.cuda.memory_stats()["allocated_bytes.all.current"] == before


@check
def random_numbers_of_the_device():
    torch.cuda.manual_seed_all(3)
    state, host = torch.cuda.get_rng_state(), torch.get_rng_state()
    first = torch.rand(4, device="cuda")
    torch.cuda.set_rng_state(state)
    assert torch.equal(first, torch.rand(4, device="cuda"))
    assert torch.equal(host, torch.get_rng_state())
    assert torch.rand(2, device="cuda", generator=torch.Generator("cuda").manual_seed(1)).is_cuda


@check
def streams_and_events():
    side, start = torch.cuda.Stream(), torch.cuda.Event(enable_timing=True)
    start.record()
    with torch.cuda.stream(side):
        assert torch.cuda.current_stream() == side
        torch.ones(2, device="cuda")
    torch.cuda.current_stream().wait_stream(side)
    end = torch.cuda.Event(enable_timing=True)
    end.record()
    torch.cuda.synchronize()
    assert start.elapsed_time(end) >= 0


@check
def autocast():
    linear = torch.nn.Linear(4, 4).cuda()
    with torch.autocast("cuda", dtype=torch.bfloat16):
        assert linear(torch.ones(1, 4, device="cuda")).dtype == torch.bfloat16
    assert linear(torch.ones(1, 4, device="cuda")).dtype == torch.float32


@check
def grad_scaler():
    linear, scaler = torch.nn.Linear(4, 4).cuda(), torch.amp.GradScaler("cuda")
    optimizer = torch.optim.SGD(linear.parameters(), lr=0.1)
    scaler.scale(linear(torch.ones(1, 4, device="cuda")).sum()).backward()
    scaler.step(optimizer)
    scaler.update()
    assert scaler.get_scale() > 1


@check
def clipping_stays_on_the_device():
    linear = torch.nn.Linear(4, 4).cuda()
    linear(torch.ones(1, 4, device="cuda")).sum().backward()
    assert torch.nn.utils.clip_grad_norm_(linear.parameters(), 1.0).is_cuda


@check
def products_in_single_precision():
    a = torch.ones(2, 2, dtype=torch.bfloat16, device="cuda")
    if "dtype" in torch.ops.aten.mm.overloads():
        assert torch.mm(a, a, out_dtype=torch.float32).dtype == torch.float32
        assert torch.addmm(a.float(), a, a, out_dtype=torch.float32, beta=0.5).tolist() == [[2.5, 2.5]] * 2


@check
def old_types():
    x = torch.cuda.FloatTensor([1.0])
    assert isinstance(x, torch.cuda.FloatTensor) and x.type() == "torch.cuda.FloatTensor"


@check
def files():
    file = io.BytesIO()
    torch.save(torch.ones(2, device="cuda"), file)
    file.seek(0)
    assert torch.load(file).is_cuda
    file.seek(0)
    assert not torch.load(file, map_location="cpu").is_cuda


@check
def empty_with_a_python_type():
    assert torch.empty(2, dtype=int, device="cuda").dtype == torch.int64


@check
def half_precision_as_on_a_gpu():
    assert deepspeed.accelerator.get_accelerator().is_fp16_supported()
    assert torch.cuda.is_bf16_supported()


@check
def vmapped():
    rows = torch.arange(4, device="cuda")
    assert torch.vmap(lambda i: i.new_ones(()) + i)(rows).tolist() == [1, 2, 3, 4]


@check
def meta():
    assert torch.ones(3, device="cuda").to("meta").device.type == "meta"


@check
def thread():
    found = []
    worker = threading.Thread(target=lambda: found.append(torch.ones(2, device="cuda")))
    worker.start()
    worker.join()
    assert found[0].is_cuda and (found[0] + torch.ones(2, device="cuda")).tolist() == [2, 2]


@check
def barriers():
    dist.barrier()
    dist.monitored_barrier()


@check
def gather_and_scatter():
    mine = torch.full((2,), float(rank), device="cuda")
    parts = [torch.empty(2, device="cuda") for _ in range(world)] if rank == 0 else None
    deepspeed.comm.gather(mine, parts, dst=0)
    assert rank or [part[0].item() for part in parts] == list(range(world))
    got = torch.empty(2, device="cuda")
    dist.scatter(got, parts, src=0)
    assert got[0].item() == rank


@check
def objects():
    found = [None] * world
    dist.all_gather_object(found, {"rank": rank})
    assert [item["rank"] for item in found] == list(range(world))
    words = ["word" if rank == 0 else None]
    deepspeed.comm.broadcast_object_list(words, src=0, device=torch.device("cuda", rank))
    assert words == ["word"]


@check
def messages():
    x = torch.full((2,), float(rank), device="cuda")
    y, other = torch.empty(2, device="cuda"), 1 - rank
    for work in dist.batch_isend_irecv([dist.P2POp(dist.isend, x, other), dist.P2POp(dist.irecv, y, other)]):
        work.wait()
    assert y[0].item() == other


@check
def collective_under_another_name():
    from torch.distributed.distributed_c10d import all_reduce

    x = torch.ones(2, device="cuda")
    all_reduce(x, async_op=True).wait()
    assert x[0].item() == world


@check
def data_parallel():
    model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(2, 2).cuda())
    model(torch.ones(1, 2, device="cuda")).sum().backward()


for function in CHECKS:
    try:
        function()
        print("OK", function.__name__, flush=True)
    except Exception as error:
        print("FAIL", function.__name__, type(error).__name__, error, flush=True)
