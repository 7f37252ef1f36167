"""Inputs of losses at random, at edges and by hand, and how results are compared."""

import numpy as np
import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st

from imcl_core.errors import ImclError

MISTAKE = (ImclError, ValueError)
DTYPES = (torch.float32, torch.float64)
random_examples = settings(derandomize=True, deadline=None, max_examples=25)
dtypes = st.sampled_from(DTYPES)
seeds = st.integers(0, 2**32 - 1)
scales = st.sampled_from((1e-3, 0.3, 1.0, 1e3))
temperatures = st.sampled_from((0.5, 1.0, 2.0, 4.0))
weights = st.floats(0.0, 1.0)


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape)).to(dtype)


def labels(batch: int, classes: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(classes, size=batch))


def plain(x: torch.Tensor) -> np.ndarray:
    """The very values of `x` for the reference: float32 is exact in float64."""
    return x.detach().double().numpy()


def agree(actual: torch.Tensor, expected, dtype: torch.dtype) -> None:
    assert actual.dtype == dtype
    tolerance = 1e-9 if dtype == torch.float64 else 1e-4
    np.testing.assert_allclose(plain(actual), expected, rtol=tolerance, atol=tolerance / 10)


def near(actual: torch.Tensor, expected, tolerance: float = 1e-12) -> None:
    np.testing.assert_allclose(plain(actual), expected, rtol=tolerance, atol=tolerance)


def gradients(loss: torch.Tensor, *inputs: torch.Tensor) -> list[torch.Tensor]:
    return list(torch.autograd.grad(loss, inputs))


def one_hot(target: torch.Tensor, classes: int) -> torch.Tensor:
    return torch.nn.functional.one_hot(target, classes).double()


def rows(*values) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def check(function, *inputs: torch.Tensor) -> None:
    assert torch.autograd.gradcheck(function, [x.clone().requires_grad_() for x in inputs])


def ramp(n: int, channels: int, size: int) -> torch.Tensor:
    """Constant maps, each channel of each sample with its own value, none of them a short binary fraction."""
    values = (torch.arange(1, n * channels + 1).double() / 7 + 0.1).view(n, channels, 1, 1)
    return values.expand(n, channels, size, size).clone()


def with_row(x: torch.Tensor, value: float, index=0) -> torch.Tensor:
    x = x.clone()
    x[index] = value
    return x


on_dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=str)
