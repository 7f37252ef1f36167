"""Eq. 8 and 9, similarity matrices: reference, by hand, gradients, properties."""

from functools import partial
from math import sqrt

import numpy as np
import pytest
import reference as ref
import torch
from hypothesis import given
from hypothesis import strategies as st
from loss_inputs import (
    agree,
    check,
    dtypes,
    labels,
    near,
    normal,
    one_hot,
    plain,
    random_examples,
    rows,
    scales,
    seeds,
    weights,
)

from imcl_core import losses


@st.composite
def feature_maps(draw):
    """(n, C, H, W) or (n, d) features; in some, one sample or one channel of a sample is constant."""
    n, channels, seed, scale = draw(st.integers(2, 6)), draw(st.integers(1, 4)), draw(seeds), draw(scales)
    if draw(st.integers(0, 4)) == 0:
        x = normal(n, channels + 1, seed=seed)
    else:
        x = normal(n, channels, draw(st.integers(1, 4)), draw(st.integers(1, 4)), seed=seed)
    constant = draw(st.sampled_from(("nothing", "a sample", "a channel")))
    if constant == "a sample":
        x[draw(st.integers(0, n - 1))] = 0.1
    elif constant == "a channel" and x.ndim == 4:
        x[draw(st.integers(0, n - 1)), draw(st.integers(0, channels - 1))] = -0.7
    return x * scale


@random_examples
@given(feature_maps(), st.sampled_from(("sample", "batch")), dtypes)
def test_similarity_matrix_is_the_reference(x, centre, dtype):
    x = x.to(dtype)
    agree(losses.similarity_matrix(x, centre=centre), ref.similarity_matrix(plain(x), centre), dtype)


@random_examples
@given(feature_maps(), weights, weights, st.booleans(), seeds, dtypes)
def test_pull_push_loss_is_the_reference(x, pull, push, normalise, seed, dtype):
    n, x = len(x), x.to(dtype)
    to_labels, to_images = normal(2, n, n, seed=seed, dtype=dtype).tanh()
    actual = losses.pull_push_loss(x, to_labels, to_images, pull, push, normalise=normalise)
    expected = ref.pull_push_loss(plain(x), plain(to_labels), plain(to_images), pull, push, normalise)
    agree(actual, expected, dtype)


def opposite_maps() -> torch.Tensor:
    """Two samples of two maps of 1 by 2: channel deviations (1, 0) and (0, 1)."""
    return rows([[[0, 2]], [[5, 5]]], [[[7, 7]], [[3, 1]]])


def test_similarity_matrix_by_hand():
    # Deviations (1, 0) and (0, 1), centred (1/2, -1/2) and (-1/2, 1/2): opposite.
    near(losses.similarity_matrix(opposite_maps()), [[1, -1], [-1, 1]])
    # (1, 0, 0) and (1, 1, 0), centred (2, -1, -1)/3, (1, 1, -2)/3: product 3/9, lengths √6/3: 1/2.
    near(losses.similarity_matrix(rows([1, 0, 0], [1, 1, 0])), [[1, 1 / 2], [1 / 2, 1]])


def test_similarity_centred_over_the_batch_by_hand():
    # (1, 0), (0, 1), (2, 2) have mean (1, 1): centred (0, -1), (-1, 0), (1, 1).
    s = losses.similarity_matrix(rows([1, 0], [0, 1], [2, 2]), centre="batch")
    near(s, [[1, 0, -1 / sqrt(2)], [0, 1, -1 / sqrt(2)], [-1 / sqrt(2), -1 / sqrt(2), 1]])


def test_pull_push_loss_by_hand():
    # S = (1, -1; -1, 1): ‖S - identity‖_F = √2, ‖S - ones‖_F = √8; 0.5 √2 - 0.125 √8 = √2/4, over n = 2 √2/8.
    arguments = opposite_maps(), torch.eye(2).double(), torch.ones(2, 2).double(), 0.5, 0.125
    near(losses.pull_push_loss(*arguments, normalise=False), sqrt(2) / 4)
    near(losses.pull_push_loss(*arguments), sqrt(2) / 8)


@pytest.mark.parametrize("shape", [(4, 3, 2, 3), (4, 3, 1, 1), (4, 3)], ids=str)
@pytest.mark.parametrize("centre", ["sample", "batch"])
def test_gradcheck_of_the_similarity(shape, centre):
    check(partial(losses.similarity_matrix, centre=centre), normal(*shape))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("shape", [(4, 3, 5, 5), (4, 1, 3, 2), (1, 3, 2, 2)], ids=str)
def test_gradcheck_in_either_layout(shape, layout):
    x = normal(*shape).contiguous(memory_format=layout).requires_grad_()
    assert torch.autograd.gradcheck(losses.similarity_matrix, x)
    assert torch.autograd.gradcheck(losses.kernel_loss, x)


def test_a_constant_map_beside_others_gets_no_gradient():
    x = normal(4, 3, 5, 5)
    x[1, 2] = 0.1
    x.requires_grad_()
    (gradient,) = torch.autograd.grad((losses.similarity_matrix(x) * normal(4, 4)).sum(), x)
    assert gradient.isfinite().all()
    assert not gradient[1, 2].any()
    assert gradient[1, :2].any()


def test_a_second_derivative_is_refused_not_wrong():
    x = normal(4, 3, 5, 5).requires_grad_()
    (gradient,) = torch.autograd.grad(losses.similarity_matrix(x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def test_distances_of_all_layers_in_one_call():
    similarity, (to_labels, to_images) = normal(3, 4, 4).tanh(), normal(2, 4, 4, seed=1).tanh()
    pull, push = normal(2, 3, seed=2)
    together = losses.pull_push_distance(similarity, to_labels, to_images, pull, push)
    each = zip(similarity, pull, push, strict=True)
    near(together, [losses.pull_push_distance(s, to_labels, to_images, a, b) for s, a, b in each])


@pytest.mark.parametrize("normalise", [True, False])
def test_gradcheck_of_pull_push_and_kernel(normalise):
    to_labels, to_images = normal(2, 4, 4).tanh()
    for centre in ("sample", "batch"):
        check(
            lambda x, centre=centre: losses.pull_push_loss(x, to_labels, to_images, 0.7, 0.3, normalise, centre=centre),
            normal(4, 3, 2, 3),
        )
    check(losses.kernel_covariance, normal(3, 2, 3, 3))
    check(losses.kernel_loss, normal(3, 2, 3, 3))


def test_similarities_of_labels_and_images_are_constants():
    x = normal(4, 3, 2, 2).requires_grad_()
    targets = [s.clone().requires_grad_() for s in normal(2, 4, 4)]
    found = torch.autograd.grad(losses.pull_push_loss(x, *targets, 0.7, 0.3), [x, *targets], allow_unused=True)
    assert found[0].any()
    assert all(gradient is None or not gradient.any() for gradient in found[1:])


@pytest.mark.parametrize("classes", [2, 3, 10, 100])
def test_label_similarity_is_one_within_a_class_and_minus_one_over_m_minus_one_across(classes):
    y = labels(12, min(classes, 4))
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.float64, 1e-12)):
        s = losses.similarity_matrix(one_hot(y, classes).to(dtype))
        near(s, np.where(np.equal.outer(y.numpy(), y.numpy()), 1.0, -1 / (classes - 1)), tolerance)


@random_examples
@given(feature_maps(), st.sampled_from(("sample", "batch")))
def test_similarity_is_symmetric_bounded_and_one_or_zero_on_the_diagonal(x, centre):
    s = losses.similarity_matrix(x, centre=centre)
    near(s, plain(s.T))
    assert s.abs().max() <= 1 + 1e-12
    assert all(d == 0 or abs(d - 1) < 1e-12 for d in s.diagonal().tolist())


def test_similarity_ignores_scale_and_shift_of_a_sample():
    x, factor = normal(5, 4, 3, 3), torch.tensor([0.01, 0.5, 1.0, 20.0, 300.0]).double()
    near(
        losses.similarity_matrix(x * factor.view(5, 1, 1, 1) + normal(5, 4, 1, 1, seed=1)),
        plain(losses.similarity_matrix(x)),
        1e-10,
    )
    flat = normal(5, 4)
    near(
        losses.similarity_matrix(flat * factor.view(5, 1) + normal(5, 1, seed=1)),
        plain(losses.similarity_matrix(flat)),
        1e-10,
    )


def test_similarity_centred_over_the_batch_ignores_a_common_shift_and_scale():
    x = normal(5, 4)
    near(
        losses.similarity_matrix(3 * x + normal(1, 4, seed=1), centre="batch"),
        plain(losses.similarity_matrix(x, centre="batch")),
    )
    assert not torch.allclose(losses.similarity_matrix(x, centre="batch"), losses.similarity_matrix(x))


def test_channels_last_gives_the_same():
    x, w = normal(4, 3, 5, 2), normal(4, 3, 3, 3)
    last = partial(torch.Tensor.contiguous, memory_format=torch.channels_last)
    near(losses.similarity_matrix(last(x)), plain(losses.similarity_matrix(x)))
    near(losses.kernel_covariance(last(w)), plain(losses.kernel_covariance(w)))


def test_normalise_divides_by_the_batch():
    x, (a, b) = normal(5, 3, 2, 2), normal(2, 5, 5)
    near(
        losses.pull_push_loss(x, a, b, 0.7, 0.3) * 5,
        plain(losses.pull_push_loss(x, a, b, 0.7, 0.3, normalise=False)),
    )


def test_pull_push_centred_over_the_batch():
    x, (a, b) = normal(5, 3, 2, 2), normal(2, 5, 5)
    s = ref.similarity_matrix(plain(x), "batch")
    expected = 0.7 * ref.frobenius(s, a) - 0.3 * ref.frobenius(s, b)
    near(losses.pull_push_loss(x, a, b, 0.7, 0.3, normalise=False, centre="batch"), expected)


def test_pull_and_push_have_opposite_signs():
    x, s = normal(5, 3, 2, 2), normal(5, 5)
    assert losses.pull_push_loss(x, s, s, 1.0, 0.0) > 0
    near(losses.pull_push_loss(x, s, s, 0.0, 1.0), -plain(losses.pull_push_loss(x, s, s, 1.0, 0.0)))
    assert losses.pull_push_loss(x, s, s, 0.5, 0.5) == 0
