"""A script that cannot run without a GPU."""

import torch

stream = torch.cuda.Stream()
