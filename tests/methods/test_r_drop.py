"""R-Drop against numpy, with two masks of one classifier."""

import math

import numpy as np
import torch
from torch import nn

from imcl_core import Collaboration, MethodSettings
from imcl_core.methods.r_drop import rdrop_loss
from imcl_core.networks import build


def test_it_is_half_the_sum_of_the_paper():
    torch.manual_seed(0)
    z, target = torch.randn(2, 5, 3, dtype=torch.float64), torch.tensor([0, 2, 1, 1, 0])
    p, q = np.exp(z.numpy()) / np.exp(z.numpy()).sum(axis=2, keepdims=True)
    rows = range(5)
    likelihood = np.mean([-np.log(p[i, target[i]]) - np.log(q[i, target[i]]) for i in rows])
    divergence = np.mean([(p[i] * np.log(p[i] / q[i])).sum() + (q[i] * np.log(q[i] / p[i])).sum() for i in rows])
    assert math.isclose(rdrop_loss(z, target, 3.0).item(), (likelihood + 3.0 * divergence / 2) / 2, rel_tol=1e-12)
    alike = torch.stack([z[0], z[0]])
    assert math.isclose(rdrop_loss(alike, target, 3.0).item(), nn.functional.cross_entropy(z[0], target).item())


def test_the_classifier_draws_two_masks_of_maps_computed_once():
    torch.manual_seed(0)
    network = build("vgg16", 4, width=1 / 16, hidden=16)
    collaboration = Collaboration(network, "r-drop", settings=MethodSettings(rdrop_alpha=2.0))
    rows = {}
    network.classifier[0].register_forward_hook(lambda m, x, y: rows.update(classifier=len(y)))
    network.trunk.register_forward_hook(lambda m, x, y: rows.update(trunk=len(y)))
    seen = []
    network.register_forward_hook(lambda m, x, y: seen.append(y.detach()))
    images, labels = torch.randn(4, 3, 32, 32), torch.arange(4)
    collaboration(images, labels).backward()
    assert rows == {"trunk": 4, "classifier": 8}
    first, second = predictions = seen[0].unflatten(0, (2, 4))
    assert not torch.equal(first, second)
    torch.testing.assert_close(collaboration.terms["r-drop"], rdrop_loss(predictions, labels, 2.0))
    torch.testing.assert_close(collaboration.logits, predictions.mean(dim=0))
    assert all(p.grad is not None for p in network.parameters())
    assert not any("forward" in vars(module) for module in network.modules())
