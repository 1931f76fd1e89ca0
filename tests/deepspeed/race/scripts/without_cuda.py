"""Scripts that look for CUDA politely, each in its way, and so end up on the host where there is none."""

import sys

import torch

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def event() -> None:
    torch.cuda.Event().record()


def on_the_host() -> None:
    print((torch.ones(8, device=DEVICE) * 2).sum().item())


def mixed() -> None:
    from deepspeed.accelerator import get_accelerator

    weight = torch.ones(8, device=get_accelerator().current_device_name())
    print(weight * torch.ones(8, device=DEVICE))


globals()[sys.argv[1]]()
