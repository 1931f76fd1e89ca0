"""What of flash_attn is plain PyTorch: taking padding out and putting it back, and a gather with a gradient.

Programs import these at their top whether or not they use the kernels, which stay refused. Arguments, shapes and
results are those of flash_attn.bert_padding and flash_attn.utils.distributed as of flash-attn 2.8.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

Tensor = torch.Tensor
MODULES = ("flash_attn.bert_padding", "flash_attn.utils.distributed")


def index_first_axis(rows: Tensor, indices: Tensor) -> Tensor:
    """Of `rows` (n, ...) those at `indices` (m,): (m, ...)."""
    return rows[indices]


def index_put_first_axis(values: Tensor, indices: Tensor, first_axis_dim: int) -> Tensor:
    """`values` (m, ...) at `indices` (m,) of zeros: (first_axis_dim, ...)."""
    zeros = values.new_zeros(first_axis_dim, *values.shape[1:])
    return zeros.index_put((indices,), values)


def unpad_input(
    hidden_states: Tensor, attention_mask: Tensor, unused_mask: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor, int, Tensor]:
    """Of `hidden_states` (batch, sequence, ...) what the masks (batch, sequence) keep, in one row after the other.

    Returns it as (tokens, ...), its places, the running sum of lengths (batch + 1,), the greatest length, and the
    lengths of what is not masked.
    """
    kept = attention_mask if unused_mask is None else attention_mask + unused_mask
    lengths = kept.sum(dim=-1, dtype=torch.int32)
    places = torch.nonzero(kept.flatten(), as_tuple=False).flatten()
    ends = F.pad(torch.cumsum(lengths, dim=0, dtype=torch.int32), (1, 0))
    rows = index_first_axis(hidden_states.flatten(0, 1), places)
    used = attention_mask.sum(dim=-1, dtype=torch.int32)
    return rows, places, ends, int(lengths.max().item()), used


def pad_input(hidden_states: Tensor, indices: Tensor, batch: int, seqlen: int) -> Tensor:
    """`hidden_states` (tokens, ...) at their places: (batch, seqlen, ...), zeros elsewhere."""
    padded: Tensor = index_put_first_axis(hidden_states, indices, batch * seqlen)
    return padded.reshape(batch, seqlen, *padded.shape[1:])


class _AllGather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, group: Any) -> Tensor:
        ctx.group = group
        ranks = torch.distributed.get_world_size(group)
        gathered = tensor.new_empty(ranks * tensor.shape[0], *tensor.shape[1:])
        torch.distributed.all_gather_into_tensor(gathered, tensor.contiguous(), group=group)
        return gathered

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (gradient,) = gradients
        ranks = torch.distributed.get_world_size(ctx.group)
        own = gradient.new_empty(gradient.shape[0] // ranks, *gradient.shape[1:])
        torch.distributed.reduce_scatter_tensor(own, gradient.contiguous(), group=ctx.group)
        return own, None


all_gather = _AllGather.apply


def __getattr__(name: str) -> Any:
    """flash_attn.bert_padding hands on the names that it takes from einops, and programs take them from there."""
    if name in ("rearrange", "repeat"):
        import einops

        return getattr(einops, name)
    raise AttributeError(f"flash_attn's {name} is not among what is plain PyTorch here")
