"""The output layer's loss: teachers."""

import torch
from collaborations import make, make_batch


def test_teachers_may_learn_where_asked():
    images, labels = make_batch()
    found = []
    for detach in (True, False):
        collaboration = make("vgg16", "out", out_detach=detach)
        torch.manual_seed(1)
        collaboration(images, labels).backward()
        found.append(collaboration.network.classifier[6].weight.grad)
    assert not torch.allclose(*found)
