"""Eq. 8 and 9 at their edges: finite values, finite gradients."""

import pytest
import reference as ref
import torch
from loss_inputs import agree, gradients, near, normal, on_dtypes, one_hot, plain, ramp, with_row

from imcl_core import losses

FEATURES = {
    "constant maps": torch.full((3, 4, 5, 5), 0.1).double(),
    "constant maps, own values": ramp(3, 4, 7),
    "zero maps": torch.zeros(3, 4, 3, 3).double(),
    "one constant sample": with_row(normal(3, 4, 3, 3), 0.1),
    "one zero sample": with_row(normal(3, 4, 3, 3), 0.0),
    "one constant channel": with_row(normal(3, 4, 3, 3), 0.1, (0, 1)),
    "only one channel varies": normal(3, 1, 3, 3) * one_hot(torch.tensor([2]), 4).view(1, 4, 1, 1),
    "1x1 maps": normal(3, 4, 1, 1),
    "1x1 constant maps": torch.full((3, 4, 1, 1), 0.1).double(),
    "1x1 zero maps": torch.zeros(3, 4, 1, 1).double(),
    "1x1 one channel": normal(3, 1, 1, 1),
    "one channel": normal(3, 1, 4, 4),
    "one channel, constant": torch.full((3, 1, 4, 4), 0.1).double(),
    "same sample n times": normal(1, 4, 3, 3).expand(3, 4, 3, 3),
    "opposite samples": torch.cat([normal(1, 4), -normal(1, 4), normal(1, 4)]),
    "flat": normal(3, 4),
    "flat, constant row": with_row(normal(3, 4), 0.1),
    "flat, one feature": normal(3, 1),
    "flat, constant": torch.full((3, 7), 0.1).double(),
    "n = 1": normal(1, 4, 3, 3),
    "n = 1, constant": torch.full((1, 4, 3, 3), 0.1).double(),
    "huge": normal(3, 4, 3, 3) * 1e4,
    "tiny": normal(3, 4, 3, 3) * 1e-6,
    "huge, constant": torch.full((3, 4, 7, 7), 1e4 / 3).double(),
    "tiny, constant": torch.full((3, 4, 7, 7), 1e-6 / 3).double(),
}


on_features = pytest.mark.parametrize("name", FEATURES)


@on_dtypes
@on_features
def test_pull_push_is_finite_at_the_edges(name, dtype):
    n = len(FEATURES[name])
    to_labels, to_images = normal(2, n, n, dtype=dtype).tanh()
    x = FEATURES[name].to(dtype).clone().requires_grad_()
    loss = losses.pull_push_loss(x, to_labels, to_images, 0.7, 0.3)
    (gradient,) = gradients(loss, x)
    agree(loss, ref.pull_push_loss(plain(x), plain(to_labels), plain(to_images), 0.7, 0.3), dtype)
    assert gradient.isfinite().all()


@on_dtypes
@on_features
@pytest.mark.parametrize("centre", ["sample", "batch"])
def test_similarity_at_the_edges_is_the_reference_and_its_gradient_finite(name, centre, dtype):
    x = FEATURES[name].to(dtype).clone().requires_grad_()
    s = losses.similarity_matrix(x, centre=centre)
    agree(s, ref.similarity_matrix(plain(x), centre), dtype)
    (gradient,) = gradients((s * normal(*s.shape, dtype=dtype)).sum(), x)
    assert gradient.isfinite().all()


@on_dtypes
@on_features
def test_gradient_is_finite_at_a_distance_of_exactly_zero(name, dtype):
    x = FEATURES[name].to(dtype).clone().requires_grad_()
    s = losses.similarity_matrix(x).detach()
    loss = losses.pull_push_loss(x, s, s, 0.7, 0.3)
    (gradient,) = gradients(loss, x)
    assert loss == 0
    assert not gradient.any(), "zero, not NaN"
    (gradient,) = gradients(losses.pull_push_loss(x, s, 0.5 * s + 0.1, 0.7, 0.3), x)
    assert gradient.isfinite().all()


@on_dtypes
@pytest.mark.parametrize("size", [(1, 1), (1, 3), (3, 3), (5, 5), (7, 7), (32, 32)], ids=str)
@pytest.mark.parametrize("value", [0.0, 0.1, 1 / 3, -7.7, 1e4 / 3, 1e-6 / 3])
def test_a_constant_sample_is_similar_to_nothing_not_even_itself(value, size, dtype):
    x = with_row(normal(4, 6, *size, dtype=dtype), value, 1).requires_grad_()
    s = losses.similarity_matrix(x)
    assert not torch.cat([s[1], s[:, 1]]).any(), "exactly 0, whatever the rounding of the mean"
    assert s.diagonal().count_nonzero() == 3
    (gradient,) = gradients((s * normal(4, 4, dtype=dtype)).sum(), x)
    assert gradient.isfinite().all()
    assert not gradient[1].any()


@on_dtypes
@pytest.mark.parametrize("factor", [1e-6, 1.0, 1e4])
def test_maps_that_are_constant_channel_by_channel_are_similar_to_nothing(factor, dtype):
    assert not losses.similarity_matrix(ramp(3, 4, 7).to(dtype) * factor).any()


@on_dtypes
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_constant_maps_at_the_largest_size(layout, dtype):
    # 9,216 positions, as in STL-10's first layers: the float32 mean of these is several roundings off.
    values = torch.tensor([0.05370005592703819, 3.3631036281585693, 0.006482650060206652, 13.741433143615723])
    x = values.to(dtype).view(1, 4, 1, 1).expand(1, 4, 96, 96).contiguous(memory_format=layout)
    assert not losses.similarity_matrix(x).any()


@on_dtypes
@pytest.mark.parametrize("length", [512, 4608, 9216])
def test_constant_rows_and_filters_of_any_value(length, dtype):
    x = normal(256, 1, dtype=dtype).mul(3).exp().expand(256, length).contiguous()
    assert not losses.similarity_matrix(x).any()
    assert not losses.similarity_matrix(x[:1].expand(100, length), centre="batch").any()
    assert not losses.kernel_covariance(x.view(256, length, 1, 1)).any()


@on_dtypes
def test_one_channel_has_no_shape_to_compare(dtype):
    assert not losses.similarity_matrix(normal(3, 1, 4, 4, dtype=dtype)).any()


@on_dtypes
def test_a_small_sample_beside_a_large_one_keeps_its_similarity(dtype):
    x = normal(3, 4, 3, 3, dtype=dtype)
    mixed = x * torch.tensor([1e4, 1e-6, 1.0], dtype=dtype).view(3, 1, 1, 1)
    agree(losses.similarity_matrix(mixed), plain(losses.similarity_matrix(x)), dtype)


def test_a_little_variation_on_a_large_mean_is_not_taken_for_none():
    x = 100 + 1e-4 * normal(3, 4, 3, 3)
    near(losses.similarity_matrix(x), ref.similarity_matrix(plain(x)), 1e-6)
    # In float32 a part in ten thousand is still a thousand roundings: inexact, but no constant.
    x = (100 + 1e-2 * normal(3, 4, 3, 3)).float()
    assert losses.similarity_matrix(x).diagonal().count_nonzero() == 3
    assert losses.similarity_matrix(x[:, :, 0, 0]).diagonal().count_nonzero() == 3
    assert losses.kernel_covariance(x).diagonal().count_nonzero() == 3
