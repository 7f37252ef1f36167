"""Eq. 10 where filters outnumber their size: the same loss and gradient as its definition, at the smaller cost."""

import pytest
import torch
from loss_inputs import normal
from torch.utils.flop_counter import FlopCounterMode

from imcl_core import losses

SHAPES = [(6, 2, 1, 1), (12, 5), (40, 3, 3, 1), (9, 8), (7, 1)]


def by_definition(weight, biased=True):
    covariance = losses.kernel_covariance(weight, biased)
    return (covariance - torch.diag(covariance.diagonal())).square().sum().sqrt()


@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("constant", [0, 2])
@pytest.mark.parametrize("shape", SHAPES)
def test_it_is_the_loss_by_definition_and_so_is_its_gradient(shape, constant, biased):
    weight = normal(*shape)
    weight[:constant] = 0.3
    found, expected = (weight.clone().requires_grad_() for _ in "ab")
    values = losses.kernel_loss(found, biased), by_definition(expected, biased)
    torch.testing.assert_close(*values)
    values[0].backward()
    if values[1] > 0:
        values[1].backward()
        torch.testing.assert_close(found.grad, expected.grad)
    assert found.grad.isfinite().all() and (found.grad[:constant] == 0).all()


@pytest.mark.parametrize("biased", [True, False])
def test_kernels_of_several_shapes_in_few_calls_are_each_ones_loss(biased):
    weights = [normal(*shape, seed=i).requires_grad_() for i, shape in enumerate([(9, 2, 2, 1), (4, 9), (9, 2, 2, 1)])]
    weights[0].data[:2] = 0.3
    together = losses.kernel_losses(weights, biased)
    found = torch.autograd.grad(together.sum(), weights)
    alone = torch.stack([by_definition(weight, biased) for weight in weights])
    torch.testing.assert_close(together, alone)
    for ours, theirs in zip(found, torch.autograd.grad(alone.sum(), weights), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_its_gradient_is_that_of_finite_differences():
    assert torch.autograd.gradcheck(losses.kernel_loss, normal(8, 3, 2, 1).requires_grad_())


@pytest.mark.parametrize("shape", [(3, 1, 1, 1), (5, 2, 2, 1)])
def test_filters_that_are_all_constant_or_orthogonal_have_none(shape):
    weight = torch.full(shape, 0.1)
    if weight[0].numel() > 1:
        weight[:3] = torch.tensor([[1.0, 1, -1, -1], [1, -1, 1, -1], [1, -1, -1, 1]]).view(3, *shape[1:])
    weight.requires_grad_()
    loss = losses.kernel_loss(weight)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=2e-3) and weight.grad.isfinite().all()


@pytest.mark.parametrize("shape", [(64, 16, 1, 1), (16, 64, 1, 1)])
def test_its_products_are_those_of_the_smaller_matrix(shape):
    with FlopCounterMode(display=False) as counted:
        losses.kernel_loss(torch.randn(shape, requires_grad=True)).backward()
    assert counted.get_total_flops() == 2 * 2 * 64 * 16 * 16  # forward and backward, multiply and add
