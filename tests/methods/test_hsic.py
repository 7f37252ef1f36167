"""The HSIC bottleneck against numpy."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from small import random

from imcl_core.methods.hsic import hsic_loss, normalised_kernel


def numpy_kernel(x, sigma, epsilon=1e-5):
    n, d = x.shape
    kernel = np.array([[np.exp(-((a - b) ** 2).sum() / (2 * (sigma * np.sqrt(d)) ** 2)) for b in x] for a in x])
    centring = np.eye(n) - np.ones((n, n)) / n
    centred = centring @ kernel @ centring
    return centred @ np.linalg.inv(centred + epsilon * n * np.eye(n))


@pytest.mark.parametrize("sigma", [5.0, 0.7])
def test_the_hsic_bottleneck_is_that_of_numpy(sigma):
    z, x, y = random(8, 3, 2, 2), random(8, 5, seed=1), F.one_hot(torch.arange(8) % 3, 3).double()
    kernels = [numpy_kernel(v.flatten(1).numpy(), sigma) for v in (z, x, y)]
    expected = np.trace(kernels[0] @ kernels[1]) - 50 * np.trace(kernels[0] @ kernels[2])
    found = hsic_loss(*(normalised_kernel(v, sigma) for v in (z, x, y)), beta=50.0)
    assert found.item() == pytest.approx(expected, rel=1e-9)


def test_normalised_kernels_are_exact_enough_in_single_precision():
    x = random(64, 300)
    exact, single = normalised_kernel(x), normalised_kernel(x.float())
    assert single.dtype == torch.float32
    assert (single - exact).abs().max() < 1e-3
