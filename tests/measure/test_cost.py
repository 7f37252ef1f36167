"""The bytes of `cost` against those that autograd keeps in a step."""

import pytest
import torch

from imcl_core import Collaboration
from imcl_core.networks import build


@pytest.mark.parametrize("model", ["resnet18", "vgg16"])
def test_weights_are_no_bytes_kept_for_the_backward_pass(model):
    network, images, kept = build(model, 10, width=1 / 16, hidden=256), torch.randn(2, 3, 32, 32), {}
    counted = Collaboration(network, "baseline").cost(batch_size=len(images)).loc["network", "bytes"]
    given = {x.untyped_storage()._cdata for x in (images, *network.parameters())}

    def keep(tensor):
        kept[tensor.untyped_storage()._cdata] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        network(images)
    assert counted == sum(x.untyped_storage().nbytes() for key, x in kept.items() if key not in given)
