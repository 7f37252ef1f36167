"""Settings reach their equation, each its own place in it, on both ways of computing."""

import pytest
import torch
import torch.nn.functional as F
from collaborations import make, make_batch
from small import make as make_small
from small import make_batch as small_batch

from imcl_core import losses

ALPHA, BETA, PUSH = 0.3, 0.7, (0.3, 0.7)


def observed(method, gpu, **settings):
    """The terms of a method, its collaboration, images and labels, and the maps of each layer."""
    collaboration, (images, labels), maps = make("resnet18", method, **settings).eval(), make_batch(), {}
    for name in collaboration.layers:
        module = collaboration.network.get_submodule(name)
        module.register_forward_hook(lambda m, x, y, name=name: maps.update({name: y.detach()}))
    with losses.as_on_a_gpu(gpu):
        terms = collaboration.objective(images, labels)
    found = torch.stack([value for name, value in terms.items() if name.startswith(method)])
    heads = [collaboration.heads[f"{method}/{n}".replace(".", "/")] for n in maps] if method != "kernel" else []
    return found, collaboration, images, labels, list(zip(heads, maps.values(), strict=False))


@pytest.mark.parametrize("gpu", [False, True])
def test_alpha_and_beta_of_mid(gpu):
    found, collaboration, _, labels, places = observed("mid", gpu, mid_alpha=ALPHA, mid_beta=BETA)
    local = [head(maps) for head, maps in places]
    temperature = collaboration.settings.mid_temperature
    expected = losses.intermediate_losses(local, collaboration.logits, labels, ALPHA, BETA, temperature)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("gpu", [False, True])
def test_centre_and_push_of_pull_push(gpu):
    found, _, images, labels, places = observed("pull-push", gpu, pp_centre="batch", pp_push=PUSH)
    target, source = (losses.similarity_matrix(x, "batch") for x in (F.one_hot(labels, 5).double(), images))
    depths = torch.linspace(0, 1, len(places)).tolist()
    weights = [(0.1 + 0.9 * d, PUSH[0] + (PUSH[1] - PUSH[0]) * d) for d in depths]
    expected = [
        losses.pull_push_loss(head(maps), target, source, *pair, centre="batch")
        for (head, maps), pair in zip(places, weights, strict=True)
    ]
    torch.testing.assert_close(found, torch.stack(expected))


@pytest.mark.parametrize("gpu", [False, True])
def test_the_deviation_of_kernel(gpu):
    found, collaboration, *_ = observed("kernel", gpu, kernel_biased=False)
    weights = [collaboration.network.get_submodule(name).weight for name in collaboration.kernels]
    expected = [collaboration.settings.kernel_weight * losses.kernel_loss(w, biased=False) for w in weights]
    torch.testing.assert_close(found, torch.stack(expected))


def test_the_objectives_logits_are_the_mean_of_all_predictions():
    collaboration = make("vgg16", "out")
    torch.testing.assert_close(collaboration.objective(*make_batch()).logits.detach(), collaboration.logits)


def test_terms_read_a_layer_before_others_change_it():
    values = []
    for methods in ("deep-supervision", "deep-supervision+spatial-dropout"):
        collaboration = make_small(methods, dropout=0.0, spatial_rate=0.5, spatial_groups=0)
        terms = collaboration.objective(*small_batch())
        values.append(next(value.item() for name, value in terms.items() if name.startswith("deep")))
    assert values[0] == values[1]
