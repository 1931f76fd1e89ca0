"""CUDA's names over the virtual device: programs that say `torch.cuda` and `"cuda:0"` everywhere run on it unmodified.

`map_cuda` puts them in place for this process and those that it forks; what cannot be mapped soundly (graphs, kernels,
memory shared between processes, raw handles) raises one sentence when it is asked for.
"""

from harness.device.as_cuda.install import map_cuda

__all__ = ["map_cuda"]
