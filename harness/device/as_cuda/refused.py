"""What of CUDA the virtual device has nothing like: asking for it raises one sentence."""

from __future__ import annotations

from typing import Any

from harness.device.errors import Unmapped

WHY = {
    "graph": "the order inside a captured graph is not seen; run without CUDA graphs",
    "kernel": "what a kernel of the program's own reads and writes is not seen; switch to torch's operators",
    "process": "memory shared between processes is not followed; send it through torch.distributed",
    "allocator": "memory is handed out by the virtual device alone; drop the allocator setting",
    "handle": "there is no such handle behind a virtual device",
    "sensor": "a virtual device has no such sensor; leave the measurement out",
    "several": "a rank has one virtual device; use DistributedDataParallel or DeepSpeed in place of DataParallel",
    "nccl": "collectives run over gloo; call those of torch.distributed or deepspeed.comm",
}

# Of torch.cuda, by reason.
REFUSED = {
    "graph": ("CUDAGraph", "graph", "make_graphed_callables", "graph_pool_handle"),
    "handle": (
        "ExternalStream",
        "get_stream_from_external",
        "current_blas_handle",
        "current_solver_handle",
        "GreenContext",
    ),
    "allocator": (
        "caching_allocator_alloc",
        "caching_allocator_delete",
        "caching_allocator_enable",
        "CUDAPluggableAllocator",
        "change_current_allocator",
        "MemPool",
        "use_mem_pool",
    ),
    "sensor": (
        "temperature",
        "power_draw",
        "clock_rate",
        "utilization",
        "memory_usage",
        "device_memory_used",
    ),
}
# Of its modules: module, reason, names.
REFUSED_INSIDE = (
    ("nccl", "nccl", ("all_reduce", "reduce", "broadcast", "all_gather", "reduce_scatter", "init_rank")),
    ("comm", "several", ("broadcast", "broadcast_coalesced", "reduce_add", "scatter", "gather")),
    ("jiterator", "kernel", ("_create_jit_fn", "_create_multi_output_jit_fn")),
)


def refuse(name: str, reason: str) -> type:
    """A class in the place of `name`; to make one, or to call the function that it stands for, raises Unmapped."""

    def raise_it(*_: Any, **__: Any) -> Any:
        raise Unmapped(f"{name} cannot be mapped onto the virtual device: {WHY[reason]}")

    return type(name.rpartition(".")[2], (), {"__new__": raise_it, "__module__": "torch.cuda"})
