"""Eq. 10, what kernels have in common: reference, by hand, properties, edges."""

from math import sqrt

import numpy as np
import pytest
import reference as ref
import torch
from hypothesis import given
from hypothesis import strategies as st
from loss_inputs import (
    agree,
    dtypes,
    gradients,
    near,
    normal,
    on_dtypes,
    plain,
    random_examples,
    rows,
    scales,
    seeds,
    with_row,
)

from imcl_core import losses


@st.composite
def kernels(draw):
    """(F, C, kh, kw) weights; in some, one filter is constant."""
    shape = [
        draw(st.integers(1, 5)),
        draw(st.integers(1, 4)),
        draw(st.integers(1, 3)),
        draw(st.integers(1, 3)),
    ]
    w = normal(*shape, seed=draw(seeds))
    if draw(st.integers(0, 3)) == 0:
        w[draw(st.integers(0, shape[0] - 1))] = 0.1
    return w * draw(scales)


@random_examples
@given(kernels(), st.booleans(), dtypes)
def test_kernel_covariance_and_loss_are_the_reference(w, biased, dtype):
    w = w.to(dtype)
    agree(losses.kernel_covariance(w, biased), ref.kernel_covariance(plain(w), biased), dtype)
    agree(losses.kernel_loss(w, biased), ref.kernel_loss(plain(w), biased), dtype)


def test_kernel_by_hand():
    # (2, 0) and (0, 6) standardise to (1, -1) and (-1, 1): covariance -1, so the loss is √((-1)² + (-1)²).
    w = rows([2, 0], [0, 6]).reshape(2, 1, 1, 2)
    near(losses.kernel_covariance(w), [[1, -1], [-1, 1]])
    near(losses.kernel_loss(w), sqrt(2))
    # (1, 0, 0) and (1, 1, 0): covariance 1/2 as for the similarity; the constant third adds nothing.
    w = rows([1, 0, 0], [1, 1, 0], [4, 4, 4]).reshape(3, 3, 1, 1)
    near(losses.kernel_covariance(w), [[1, 1 / 2, 0], [1 / 2, 1, 0], [0, 0, 0]])
    near(losses.kernel_loss(w), sqrt(1 / 2))
    # Over G - 1 = 2 the deviations grow by √(3/2), so that products over G shrink to 2/3.
    near(losses.kernel_covariance(w, biased=False), [[2 / 3, 1 / 3, 0], [1 / 3, 2 / 3, 0], [0, 0, 0]])
    near(losses.kernel_loss(w, biased=False), sqrt(2 / 9))


@random_examples
@given(seeds, st.integers(2, 6))
def test_kernel_loss_is_zero_for_orthogonal_zero_mean_filters(seed, filters):
    centred = normal(9, filters, seed=seed)
    q, _ = torch.linalg.qr(centred - centred.mean(0))
    w = (q.T * torch.arange(1, filters + 1).view(-1, 1)).reshape(filters, 1, 3, 3)
    near(losses.kernel_loss(w), 0.0, 1e-12)


@random_examples
@given(seeds, st.integers(1, 6))
def test_kernel_covariance_has_a_unit_diagonal_and_ignores_scale_and_shift(seed, filters):
    w = normal(filters, 2, 3, 3, seed=seed)
    c = losses.kernel_covariance(w)
    near(c.diagonal(), np.ones(filters))
    near(c, plain(c.T))
    scale = 10 ** normal(filters, 1, 1, 1, seed=seed)
    near(losses.kernel_covariance(w * scale + normal(filters, 1, 1, 1, seed=seed)), plain(c), 1e-9)


KERNELS = {
    "one filter": normal(1, 2, 3, 3),
    "one constant filter": torch.full((1, 2, 3, 3), 0.1).double(),
    "a constant filter": with_row(normal(3, 2, 3, 3), 0.1),
    "a zero filter": with_row(normal(3, 2, 3, 3), 0.0),
    "all filters constant": torch.full((3, 2, 3, 3), 0.1).double(),
    "all filters zero": torch.zeros(3, 2, 3, 3).double(),
    "all filters equal": normal(1, 2, 3, 3).expand(3, 2, 3, 3),
    "opposite filters": torch.cat([normal(1, 2, 3, 3), -normal(1, 2, 3, 3)]),
    "orthogonal filters": rows([1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]).view(3, 1, 2, 2),
    "huge": normal(3, 2, 3, 3) * 1e4,
    "tiny": normal(3, 2, 3, 3) * 1e-6,
    "huge, constant": torch.full((3, 2, 3, 3), 1e4 / 3).double(),
    "tiny, constant": torch.full((3, 2, 3, 3), 1e-6 / 3).double(),
    "1x1 kernels": normal(3, 4, 1, 1),
    "one weight a filter": normal(3, 1, 1, 1),
    "of very different sizes": normal(3, 2, 3, 3) * torch.tensor([1e4, 1e-6, 1.0]).view(3, 1, 1, 1),
}


@on_dtypes
@pytest.mark.parametrize("name", KERNELS)
def test_kernel_loss_is_the_reference_at_the_edges_and_its_gradient_finite(name, dtype):
    w = KERNELS[name].to(dtype).clone().requires_grad_()
    agree(losses.kernel_covariance(w), ref.kernel_covariance(plain(w)), dtype)
    loss = losses.kernel_loss(w)
    agree(loss, ref.kernel_loss(plain(w)), dtype)
    assert gradients(loss, w)[0].isfinite().all()


@on_dtypes
@pytest.mark.parametrize("value", [0.0, 0.1, 1 / 3, -7.7, 1e4 / 3, 1e-6 / 3])
@pytest.mark.parametrize("channels", [1, 5, 64])
def test_a_constant_filter_covaries_with_nothing(value, channels, dtype):
    w = with_row(normal(3, channels, 3, 3, dtype=dtype), value, 1).requires_grad_()
    c = losses.kernel_covariance(w)
    assert not torch.cat([c[1], c[:, 1]]).any(), "exactly 0, whatever the rounding of the mean"
    assert not gradients(losses.kernel_loss(w), w)[0][1].any()
