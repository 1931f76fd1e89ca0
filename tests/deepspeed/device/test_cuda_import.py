"""What GPU ranks are forked from imports everything and starts no CUDA: shown with a torch that says it has a GPU."""

from __future__ import annotations

import subprocess
import sys

from harness.system.places import REPOSITORY

PROGRAM = """
import torch

def started(name):
    def refuse(*_, **__):
        raise SystemExit(f"an import started CUDA: {name}")
    return refuse

torch.version.cuda = "13.0"
torch.cuda.device_count, torch.cuda.is_available = lambda: 1, lambda: True
torch.cuda.is_initialized = lambda: False
for name in ("_lazy_init", "get_device_capability", "get_device_properties", "current_device"):
    setattr(torch.cuda, name, started(name))
for name in ("_cuda_getDeviceCount", "_cuda_init", "_cuda_getCurrentRawStream"):
    setattr(torch._C, name, started(name))

from harness.workload.train import import_everything

import_everything("cuda")
import_everything("cuda")  # as each rank does again
from deepspeed.accelerator import get_accelerator
from harness.device.cuda import WatchedEvent, WatchedStream

accelerator = get_accelerator()
assert accelerator._name == "cuda" and not accelerator.is_synchronized_device()
assert (accelerator.Event, accelerator.Stream) == (WatchedEvent, WatchedStream)
print("nothing was started")
"""


def test_importing_everything_for_a_gpu_starts_no_cuda() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip().endswith("nothing was started")
