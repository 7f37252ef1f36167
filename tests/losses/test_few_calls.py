"""The ways that a GPU takes, of few calls each, have the values and gradients of the readable ones."""

import itertools

import pytest
import torch
from collaborations import gradients as found_in
from collaborations import make, make_batch, recomputed_gradients
from loss_inputs import gradients, normal, ramp, with_row

from imcl_core import losses
from imcl_core.collaboration import METHODS

SUBSETS = [
    "+".join(s) for n in range(1, 5) for s in itertools.combinations(METHODS, n) if {"pull-push", "kernel"} & {*s}
]
MAPS = {
    "random": normal(4, 3, 5, 5),
    "a large mean": normal(4, 3, 5, 5) + 1e3,
    "constant maps, own values": ramp(3, 4, 7),
    "one constant channel": with_row(normal(3, 4, 3, 3), 0.1, (0, 1)),
    "zero": torch.zeros(3, 4, 3, 3, dtype=torch.float64),
    "tiny": normal(3, 4, 3, 3) * 1e-6,
}


def both(function, other, *inputs):
    """Values and gradients, by one way and by the other, of inputs that are weighed at random."""
    for way in (function, other):
        own = [x.clone().requires_grad_() for x in inputs]
        value = way(*own)
        yield value, gradients((value * normal(*value.shape, seed=9)).sum(), *own)


def equal(one, two):
    (value, slopes), (other, others) = one, two
    torch.testing.assert_close(value, other, rtol=1e-9, atol=1e-12)
    for slope, expected in zip(slopes, others, strict=True):
        torch.testing.assert_close(slope, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", MAPS)
def test_deviations(name):
    equal(*both(losses._FewCallDeviations.apply, losses._MapDeviations.apply, MAPS[name]))


@pytest.mark.parametrize("value", [0.0, 0.1, 1 / 3, -7.7, 1e4 / 3, 1e-6 / 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_a_constant_map_has_no_deviation_and_no_gradient(value, dtype):
    maps = torch.full((2, 3, 7, 7), value, dtype=dtype, requires_grad=True)
    deviations = losses._FewCallDeviations.apply(maps)
    (slope,) = gradients(deviations.sum(), maps)
    assert not deviations.any()
    assert not slope.any()
    assert slope.dtype == dtype


@pytest.mark.parametrize("centre", ["sample", "batch"])
def test_similarities_of_layers_of_several_widths(centre):
    rows = [normal(4, width, seed=width + i) for i, width in enumerate((3, 5, 3, 7, 5))]
    equal(
        *both(
            lambda *rows: losses.similarity_matrices(list(rows), centre),
            lambda *rows: torch.stack([losses.similarity_matrix(x, centre) for x in rows]),
            *rows,
        )
    )


@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize(
    "shapes", [((6, 2, 3, 3), (6, 2, 3, 3), (4, 6, 3, 3)), ((4, 3), (6, 2, 3, 3), (4, 3))], ids=str
)
def test_losses_of_kernels_of_several_shapes(shapes, biased):
    weights = [normal(*shape, seed=i) for i, shape in enumerate(shapes)]
    equal(
        *both(
            lambda *weights: losses.kernel_losses(list(weights), biased),
            lambda *weights: torch.stack([losses.kernel_loss(w, biased) for w in weights]),
            *weights,
        )
    )


def test_kernels_that_are_orthogonal_or_constant_have_finite_gradients():
    weights = [torch.eye(4)[:3].double(), torch.full((3, 4), 0.1).double(), with_row(normal(3, 4), 0.1)]
    weights = [w.requires_grad_() for w in weights]
    values = losses.kernel_losses(weights)
    assert values[1] == 0
    assert all(slope.isfinite().all() for slope in gradients(values.sum(), *weights))


@pytest.mark.parametrize("model", ["vgg16", "resnet18"])
@pytest.mark.parametrize("methods", SUBSETS)
def test_gradients_equal_detach_and_recompute(model, methods):
    collaboration = make(model, methods)
    torch.manual_seed(7)
    with losses.as_on_a_gpu():
        loss = collaboration(*make_batch())
        loss.backward()
    torch.manual_seed(7)
    expected_loss, expected = recomputed_gradients(collaboration, *make_batch())
    torch.testing.assert_close(loss.detach(), expected_loss, rtol=1e-9, atol=0)
    found = found_in(collaboration)
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-9, atol=1e-11, msg=name)
