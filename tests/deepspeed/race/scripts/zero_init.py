"""A model built empty under zero.Init and filled later, as from_pretrained does it; sizes that need padding."""

import deepspeed
import torch
from deepspeed.accelerator import get_accelerator

CONFIG = {
    "train_micro_batch_size_per_gpu": 2,
    "bf16": {"enabled": True},
    "zero_allow_untested_optimizer": True,
    "zero_optimization": {"stage": 3, "stage3_param_persistence_threshold": 0},
}


class Scale(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.empty(11, 11))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.weight


torch.manual_seed(0)
with deepspeed.zero.Init(config_dict_or_path=CONFIG):
    model = torch.nn.Sequential(Scale(), Scale())
parameters = list(model.parameters())
with deepspeed.zero.GatheredParameters(parameters, modifier_rank=0):
    if torch.distributed.get_rank() == 0:
        for parameter in parameters:
            parameter.data.copy_(torch.randn(11, 11))
engine, *_ = deepspeed.initialize(model=model, optimizer=torch.optim.AdamW(model.parameters()), config=CONFIG)
for _ in range(2):
    x = torch.randn(2, 11, dtype=torch.bfloat16).to(get_accelerator().current_device_name())
    engine.backward(engine(x).float().pow(2).mean())
    engine.step()
