"""Fused optimizers of DeepSpeed in torch's operators, as their CUDA kernels would neither run here nor be seen.

They read and write what the kernel does, on the current stream; arithmetic is in single precision, as in the kernel.
"""

from __future__ import annotations

import math
from typing import Any

import torch

Tensor = torch.Tensor


class FusedAdam:
    """What FusedAdamBuilder loads; see csrc/adam/multi_tensor_adam.cu of DeepSpeed."""

    @staticmethod
    @torch.no_grad()  # a kernel writes parameters whether or not they want a gradient
    def multi_tensor_adam(
        chunk_size: int,
        noop_flag: Tensor,
        lists: list[list[Tensor]],
        lr: float,
        beta1: float,
        beta2: float,
        eps: float,
        step: int,
        adam_w: int,
        bias_correction: int,
        weight_decay: float,
    ) -> None:
        """`lists`: gradients, parameters, first and second moments."""
        first = 1 - beta1**step if bias_correction else 1.0
        second = 1 - beta2**step if bias_correction else 1.0
        for gradient, parameter, mean, square in zip(*lists, strict=True):
            g, p = gradient.float(), parameter.float()
            if not adam_w and weight_decay:
                g = g.add(p, alpha=weight_decay)
            mean.copy_(mean.float().mul(beta1).add(g, alpha=1 - beta1))
            square.copy_(square.float().mul(beta2).addcmul(g, g, value=1 - beta2))
            update = (mean.float() / first) / (square.float().sqrt() / math.sqrt(second) + eps)
            if adam_w and weight_decay:
                update = update.add(p, alpha=weight_decay)
            parameter.copy_(p.sub(update, alpha=lr))


def fit_builders() -> None:
    """Let DeepSpeed's builders load what stands here, or compile for this machine's CPU as without CUDA's names."""
    from deepspeed.ops.op_builder import cpu
    from deepspeed.ops.op_builder.builder import OpBuilder

    load = OpBuilder.load

    def load_for_host(self: Any, *args: Any, **kwargs: Any) -> Any:
        version, torch.version.cuda = torch.version.cuda, None
        try:
            return load(self, *args, **kwargs)
        finally:
            torch.version.cuda = version

    OpBuilder.load = load_for_host
    cpu.FusedAdamBuilder.load = lambda self, *args, **kwargs: FusedAdam
