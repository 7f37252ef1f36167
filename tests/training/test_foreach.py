"""What is cast and counted for all layers at once comes out as layer by layer."""

import copy

import pytest
import torch

from imcl_core import Collaboration
from imcl_core.networks import build
from imcl_core.training.foreach import Foreach


def trained(collaboration, foreach=None):
    """Gradients and counters after a step in bfloat16."""
    torch.manual_seed(3)
    images, labels = torch.randn(6, 3, 32, 32), torch.arange(6) % 5

    def step():
        with torch.autocast("cpu", dtype=torch.bfloat16, cache_enabled=False):
            collaboration(images, labels).backward()

    if foreach is None:
        step()
    else:
        with foreach:
            step()
    return {n: p.grad for n, p in collaboration.named_parameters()}, dict(collaboration.named_buffers())


@pytest.mark.parametrize("methods", ["baseline", "out+mid+pull-push+kernel"])
def test_gradients_and_counters_are_those_of_the_plain_step(methods):
    torch.manual_seed(0)
    plain = Collaboration(build("resnet18", 5, width=1 / 16, hidden=16), methods)
    ours = copy.deepcopy(plain)
    before = {name: p for name, p in ours.named_parameters()}
    foreach = Foreach(ours, torch.bfloat16)
    assert len(foreach.weights) > 20
    (expected, counters), (found, ours_counters) = trained(plain), trained(ours, foreach)
    for name, gradient in found.items():
        assert gradient.dtype == torch.float32
        torch.testing.assert_close(gradient, expected[name], rtol=0, atol=0, msg=name)
    for name, value in ours_counters.items():
        torch.testing.assert_close(value, counters[name], rtol=0, atol=0, msg=name)
    assert all(p is before[name] for name, p in ours.named_parameters())


def test_weights_are_back_after_a_failure():
    network = build("vgg16", 5, width=1 / 16, hidden=16)
    before = {name: id(p) for name, p in network.named_parameters()}
    benchmark = torch.backends.cudnn.benchmark
    with pytest.raises(RuntimeError, match="should be the same"), Foreach(network, torch.bfloat16):
        network(torch.randn(2, 3, 32, 32))  # without autocast
    assert {name: id(p) for name, p in network.named_parameters()} == before
    assert torch.backends.cudnn.benchmark == benchmark
    assert all(p.grad is None for p in network.parameters())


def test_in_float32_only_batches_are_counted_together():
    network = build("vgg16", 5, width=1 / 16, hidden=16)
    foreach = Foreach(network, torch.float32)
    assert not foreach.weights
    with foreach:
        network(torch.randn(2, 3, 32, 32))
    assert {int(b) for name, b in network.named_buffers() if name.endswith("tracked")} == {1}
