"""What all tests share."""

import os

import torch

# Tests run in several processes: more threads in each only wait for one another.
torch.set_num_threads(1)
os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"
