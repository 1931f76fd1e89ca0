"""The stand-in for DeepSpeed's fused Adam is torch's Adam, and writes parameters as a kernel does."""

from __future__ import annotations

import pytest
import torch

from harness.device.as_cuda.fused import FusedAdam


@pytest.mark.parametrize("adam_w", [0, 1])
def test_it_steps_parameters_that_want_gradients_as_torch_does(adam_w: int) -> None:
    parameter = torch.nn.Parameter(torch.linspace(-1, 1, 8))
    twin = torch.nn.Parameter(parameter.detach().clone())
    mean, square = torch.zeros(8), torch.zeros(8)
    kind = torch.optim.AdamW if adam_w else torch.optim.Adam
    optimizer = kind([twin], lr=0.1, weight_decay=0.01)
    for step in (1, 2):
        twin.grad = torch.full((8,), 0.5 * step)
        lists = [[twin.grad], [parameter], [mean], [square]]
        FusedAdam.multi_tensor_adam(0, torch.zeros(1), lists, 0.1, 0.9, 0.999, 1e-8, step, adam_w, 1, 0.01)
        optimizer.step()
    assert torch.allclose(parameter, twin)
