"""One thread for these tests: beside other work, more of them wait for each other most of the time."""

import torch

torch.set_num_threads(1)
