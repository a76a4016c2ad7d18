"""What all tests share."""

import torch

# Tests run in several processes: more threads in each only wait for one another.
torch.set_num_threads(1)
