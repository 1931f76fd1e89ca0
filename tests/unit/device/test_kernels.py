"""What CUDA computes and the CPU refuses is computed: operators of two precisions."""

from __future__ import annotations

import pytest
import torch

from harness.clock.policy import policy_named
from harness.device.as_cuda.kernels import handle_norms
from harness.device.virtual import VirtualDevice


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_norms_statistics_may_be_of_single_precision_where_its_weights_are_not(dtype: torch.dtype) -> None:
    handle_norms()
    device = VirtualDevice(policy_named("eager"), "nan")
    device.use_policy()
    with device.activate():
        norm = torch.nn.BatchNorm2d(3).to(device="cpu:0")
        norm.weight.data, norm.bias.data = norm.weight.data.to(dtype), norm.bias.data.to(dtype)
        x = torch.randn(2, 3, 4, 4).to(device="cpu:0", dtype=dtype).requires_grad_()
        y = norm(x)
        y.square().sum().backward()
        assert y.dtype == dtype and norm.weight.grad.dtype == dtype
        assert norm.running_mean.dtype == torch.float32 and float(norm.running_mean.abs().sum()) > 0
