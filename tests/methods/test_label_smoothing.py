"""Label smoothing against a loop over classes, and in the place of the labels' loss."""

import math

import pytest
import torch

from imcl_core import Collaboration, ImclError, MethodSettings, losses
from imcl_core.methods.label_smoothing import smoothed_loss
from imcl_core.networks import build

CLASSES = 4


def step(methods, **settings):
    torch.manual_seed(0)
    network = build("resnet18", CLASSES, width=1 / 16, hidden=16, dropout=0.0)
    teacher = build("resnet18", CLASSES, width=1 / 16, hidden=16)
    collaboration = Collaboration(network, methods, settings=MethodSettings(**settings), teacher=teacher)
    collaboration(torch.randn(4, 3, 32, 32), torch.arange(4)).backward()
    return collaboration


def test_it_is_cross_entropy_with_a_share_of_the_label_for_all_classes():
    torch.manual_seed(0)
    z, target = torch.randn(5, 3, dtype=torch.float64), torch.tensor([0, 2, 1, 1, 0])
    total = 0.0
    for row, k in zip(z.log_softmax(dim=1).tolist(), target.tolist(), strict=True):
        total -= sum(((0.8 if c == k else 0) + 0.2 / 3) * value for c, value in enumerate(row))
    assert math.isclose(smoothed_loss(z, target, 0.2).item(), total / 5)
    assert torch.equal(smoothed_loss(z, target, 0.0), losses.hard_loss(z, target))


def test_it_takes_the_place_of_the_labels_loss_and_can_be_weighed():
    plain = step("baseline").terms["hard"].item()
    smoothed = step("label-smoothing", smoothing_epsilon=0.5)
    assert list(smoothed.terms) == ["label-smoothing"]
    value = smoothed.terms["label-smoothing"].item()
    assert value != pytest.approx(plain)
    half = step("label-smoothing", smoothing_epsilon=0.5)
    half.weigh("label-smoothing", 0.5)
    torch.manual_seed(0)
    images = torch.randn(4, 3, 32, 32)
    half(images, torch.arange(4))
    hard = torch.nn.functional.cross_entropy(half.logits, torch.arange(4))
    expected = 0.5 * smoothed_loss(half.logits, torch.arange(4), 0.5) + 0.5 * hard
    assert half.terms["label-smoothing"].item() == pytest.approx(expected.item(), rel=1e-5)


def test_a_teacher_takes_its_share_from_it():
    found = step("label-smoothing+kd", kd_alpha=0.25).terms
    alone = step("label-smoothing").terms["label-smoothing"]
    assert found["label-smoothing"].item() == pytest.approx(0.75 * alone.item())


def test_two_terms_of_the_predictions_are_refused():
    with pytest.raises(ImclError, match="out and label-smoothing each take the place of the labels' loss: name one"):
        step("label-smoothing+out")
