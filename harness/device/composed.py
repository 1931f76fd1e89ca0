"""Operators that call others, which the device then treats one by one: fully_shard's, and functional collectives.

The latter, as DTensor calls them, make their result, start a call of c10d and hand the result out; who uses it calls
`wait_tensor`, and the current stream waits (PyTorch, torch/csrc/distributed/c10d/Functional.cpp).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist

from harness.device.errors import DeviceError
from harness.device.torch_private import composed_kernel, group_named, keep_attributes

Tensor = torch.Tensor


def kernel_of(func: Any) -> Callable[..., Any]:
    """What runs such an operator under the device's mode. Raises DeviceError for a collective that is not known."""
    name = func._schema.name.split("::")[1]
    if func.namespace == "fsdp" or name == "_wrap_tensor_autograd":  # written in Python
        return composed_kernel(func)
    if name not in FUNCTIONAL:
        raise DeviceError(f"{func}: this functional collective is not known to the virtual device")
    return FUNCTIONAL[name]


def _started(result: Tensor, work: Any) -> Tensor:
    storage: Any = result.untyped_storage()
    storage.started = work
    keep_attributes(storage)
    return result


def wait_tensor(tensor: Tensor) -> Tensor:
    storage: Any = tensor.untyped_storage()
    if hasattr(storage, "started"):
        work = storage.started
        del storage.started
        work.wait()
    return tensor


def all_reduce_(tensor: Tensor, reduce_op: str, group: Any) -> Tensor:
    return _started(tensor, dist.all_reduce(tensor, _reduction(reduce_op), group_named(group), async_op=True))


def all_reduce(tensor: Tensor, reduce_op: str, group: Any) -> Tensor:
    return all_reduce_(tensor.clone(memory_format=torch.contiguous_format), reduce_op, group)


def broadcast_(tensor: Tensor, source: int, group: Any) -> Tensor:
    place = group_named(group)
    work = dist.broadcast(tensor, dist.get_global_rank(place, source), place, async_op=True)
    return _started(tensor, work)


def broadcast(tensor: Tensor, source: int, group: Any) -> Tensor:
    return broadcast_(tensor.clone(memory_format=torch.contiguous_format), source, group)


def all_gather_into_tensor(tensor: Tensor, group_size: int, group: Any) -> Tensor:
    source = tensor.contiguous()
    result = source.new_empty((source.shape[0] * group_size, *source.shape[1:]))
    work = dist.all_gather_into_tensor(result, source, group_named(group), async_op=True)
    return _started(result, work)


def reduce_scatter_tensor(tensor: Tensor, reduce_op: str, group_size: int, group: Any) -> Tensor:
    source = tensor.contiguous()
    result = source.new_empty((source.shape[0] // group_size, *source.shape[1:]))
    work = dist.reduce_scatter_tensor(
        result, source, _reduction(reduce_op), group_named(group), async_op=True
    )
    return _started(result, work)


def all_to_all_single(tensor: Tensor, received: Sequence[int], sent: Sequence[int], group: Any) -> Tensor:
    source = tensor.contiguous()
    result = source.new_empty((sum(received), *source.shape[1:]))
    place = group_named(group)
    work = dist.all_to_all_single(result, source, list(received), list(sent), place, async_op=True)
    return _started(result, work)


def shard_dim_alltoall(tensor: Tensor, gather_dim: int, shard_dim: int, group: Any) -> Tensor:
    """DTensor's move from one sharded dimension to another; it waits itself."""
    place = group_named(group)
    size = dist.get_world_size(place)
    source = torch.cat(tensor.chunk(size, shard_dim))
    result = torch.empty_like(source)
    dist.all_to_all_single(result, source, group=place)
    return torch.cat(result.chunk(size), gather_dim)


def _each(function: Callable[..., Tensor]) -> Callable[..., list[Tensor]]:
    return lambda tensors, *rest: [function(tensor, *rest) for tensor in tensors]


def _reduction(name: str) -> Any:
    return getattr(dist.ReduceOp, name.upper())


FUNCTIONAL: dict[str, Callable[..., Any]] = {
    "wait_tensor": wait_tensor,
    "all_reduce": all_reduce,
    "all_reduce_": all_reduce_,
    "all_reduce_coalesced": _each(all_reduce),
    "broadcast": broadcast,
    "broadcast_": broadcast_,
    "all_gather_into_tensor": all_gather_into_tensor,
    "all_gather_into_tensor_coalesced": _each(all_gather_into_tensor),
    "reduce_scatter_tensor": reduce_scatter_tensor,
    "reduce_scatter_tensor_coalesced": _each(reduce_scatter_tensor),
    "all_to_all_single": all_to_all_single,
    "shard_dim_alltoall": shard_dim_alltoall,
}
