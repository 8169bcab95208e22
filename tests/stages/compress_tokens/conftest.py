"""One thread for these tests: beside other work, more of them wait for each other most of the time."""

import torch

import stages.ops.torchvision_compat  # noqa: F401 - timm does not import without it

torch.set_num_threads(1)
