"""One thread: tests stay bit-exact, and do not fight over cores when several run at once."""

import torch

torch.set_num_threads(1)
