"""A method that is switched off while several processes train, and on again."""

import torch
from test_loops import BATCHES, assert_same_weights, make, two_processes
from torch import nn

METHODS = "mid+pull-push+kernel"
PROGRAM = """
import sys, torch
import torch.distributed as distributed
from torch.nn.parallel import DistributedDataParallel
sys.path.insert(0, sys.argv[1])
from methods.test_off_in_processes import train
torch.set_num_threads(1)
distributed.init_process_group("gloo")
rank = distributed.get_rank()
collaboration = train(DistributedDataParallel, lambda images: [images[rank::2]])
if rank == 0:
    torch.save(collaboration.state_dict(), sys.argv[2])
distributed.destroy_process_group()
"""


def train(wrap, parts):
    """Three steps, the second without the local methods."""
    collaboration = make(METHODS, norm=nn.Identity)
    whole, optimizer = wrap(collaboration), torch.optim.SGD(collaboration.parameters(), lr=0.1)
    for factor, batch in zip((1, 0, 1), BATCHES, strict=True):
        collaboration.weigh("mid+pull-push", factor)
        optimizer.zero_grad()
        pairs = list(zip(*map(parts, batch), strict=True))
        for images, labels in pairs:
            (whole(images, labels) / len(pairs)).backward()
        optimizer.step()
    return collaboration


def test_a_method_is_switched_off_and_on_under_ddp(tmp_path):
    two_processes(tmp_path / "state.pt", PROGRAM)
    found = make(METHODS, norm=nn.Identity)
    found.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert_same_weights(found, train(lambda c: c, lambda tensor: [tensor[0::2], tensor[1::2]]))


def test_in_one_process_heads_that_are_off_get_no_gradient():
    collaboration = make(METHODS)
    collaboration.weigh("mid", 0)
    collaboration(*BATCHES[0]).backward()
    assert all(p.grad is None for n, p in collaboration.heads.named_parameters() if n.startswith("mid"))
