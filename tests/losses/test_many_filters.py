"""The loss of Eq. 10, of few filters and of more than their size: its definition's value and gradient, at less cost."""

from contextlib import nullcontext

import pytest
import torch
from loss_inputs import normal
from torch.utils.flop_counter import FlopCounterMode

from imcl_core import losses

SHAPES = [(6, 2, 1, 1), (12, 5), (40, 3, 3, 1), (9, 8), (7, 1), (4, 6, 3, 3), (5, 5)]
WAYS = pytest.mark.parametrize("way", [nullcontext, losses.as_on_a_gpu], ids=["as on a CPU", "as on a GPU"])
LAYOUTS = {"contiguous": torch.contiguous_format, "channels last": torch.channels_last}


def by_definition(weight, biased=True):
    covariance = losses.kernel_covariance(weight, biased)
    return (covariance - torch.diag(covariance.diagonal())).square().sum().sqrt()


@WAYS
@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("constant", [0, 2])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", SHAPES)
def test_it_is_the_loss_by_definition_and_so_is_its_gradient(shape, layout, constant, biased, way):
    weight = normal(*shape)
    weight[:constant] = 0.3
    if len(shape) == 4:
        weight = weight.to(memory_format=LAYOUTS[layout])
    found, expected = (weight.clone().requires_grad_() for _ in "ab")
    with way():
        values = losses.kernel_loss(found, biased), by_definition(expected, biased)
    torch.testing.assert_close(*values)
    values[0].backward()
    if values[1] > 0:
        values[1].backward()
        torch.testing.assert_close(found.grad, expected.grad)
    assert found.grad.isfinite().all() and (found.grad[:constant] == 0).all()
    assert len(shape) == 2 or found.grad.is_contiguous(memory_format=LAYOUTS[layout])


@WAYS
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("size", [3, 147, 4608, 50_000])
def test_constant_filters_have_no_loss_however_large_they_are(size, dtype, way):
    """A mean of so many equal numbers is not quite that number."""
    values = torch.randn(50, 1, dtype=dtype) * 10.0 ** torch.randint(-6, 6, (50, 1))
    weight = values.expand(50, size).contiguous().requires_grad_()
    with way():
        loss = losses.kernel_loss(weight)
    loss.backward()
    assert loss == 0 and not weight.grad.any()


def test_between_the_passes_it_keeps_little_beside_the_weights():
    """As said in `_Redundancies`: no copy of the filters."""
    weight, kept = torch.randn(16, 64, 3, 3, requires_grad=True), []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
        losses.kernel_loss(weight)
    of_its_own = [x for x in kept if x.untyped_storage().data_ptr() != weight.untyped_storage().data_ptr()]
    assert 0 < sum(x.untyped_storage().nbytes() for x in of_its_own) < weight.untyped_storage().nbytes() / 10


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
