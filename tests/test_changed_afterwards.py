"""Collaborations whose network or heads are changed after terms were attached."""

import copy

import pytest
import torch
from torch import nn

from imcl_core import Collaboration, ImclError

SHAPE = (3, 8, 8)
IMAGES, LABELS = torch.randn(6, *SHAPE, generator=torch.Generator().manual_seed(0)), torch.arange(6) % 4


def tail() -> tuple[nn.Module, ...]:
    return nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)


def made() -> nn.Sequential:
    layer = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
    return nn.Sequential(layer, *tail())


@pytest.mark.parametrize("classes", [2, 9])
@pytest.mark.parametrize("methods", ["mid", "pull-push", "hsic", "predsim"])
def test_another_number_of_classes_names_the_remedy(classes, methods):
    network = made()
    collaboration = Collaboration(network, methods, image_shape=SHAPE)
    network[3] = nn.Linear(8, classes)
    with pytest.raises(ImclError, match=f"{classes} classes, and of 4 when .* replace its last layer first"):
        collaboration(IMAGES, LABELS % 2)


def test_terms_that_know_no_classes_take_another_last_layer():
    network = made()
    collaboration = Collaboration(network, "kernel+cutout+label-smoothing", image_shape=SHAPE)
    network[3] = nn.Linear(8, 9)
    collaboration(IMAGES, LABELS).backward()


def test_exhausted_memory_is_told_as_what_it_is(monkeypatch):
    network = made()
    collaboration = Collaboration(network, "mid", image_shape=SHAPE)
    collaboration.heads.double()  # no head is of its layer's type

    def exhausted(*_):
        raise torch.OutOfMemoryError("no room")

    monkeypatch.setattr(network[0], "forward", exhausted)
    with pytest.raises(torch.OutOfMemoryError, match="no room"):
        collaboration(IMAGES, LABELS)


@pytest.mark.parametrize("methods", ["mid", "pull-push"])
def test_a_network_cast_without_its_heads_names_the_remedy(methods):
    network = made()
    collaboration = Collaboration(network, methods, image_shape=SHAPE)
    network.double()
    with pytest.raises(ImclError, match="call `to` of the Collaboration"):
        collaboration(IMAGES.double(), LABELS)
    collaboration.double()(IMAGES.double(), LABELS).backward()


@pytest.mark.parametrize("part", ["network", "heads"])
def test_another_network_or_other_heads_are_refused(part):
    """`kernel` would go on comparing the filters of the first network, local terms training the first heads."""
    collaboration = Collaboration(made(), "mid+kernel", image_shape=SHAPE)
    setattr(collaboration, part, getattr(collaboration, part).cpu())
    with pytest.raises(ImclError, match=r"keeps the network and the heads .* make another"):
        setattr(collaboration, part, copy.deepcopy(getattr(collaboration, part)))
    copy.deepcopy(collaboration)(IMAGES, LABELS).backward()


def test_a_head_of_your_own_takes_the_place_of_one():
    collaboration = Collaboration(made(), "mid", image_shape=SHAPE)
    before, (name,) = dict(collaboration.heads), collaboration.heads
    collaboration.heads[name] = own = nn.Sequential(*tail())
    copied = copy.deepcopy(collaboration)
    for each in (collaboration, copied):
        each(IMAGES, LABELS).backward()
        assert all(p.grad is not None for p in each.heads.parameters())
    assert own[2].weight.grad is not None and all(p.grad is None for p in before[name].parameters())
    assert collaboration.cost().loc[name, "parameters"] == sum(p.numel() for p in own.parameters())


def test_an_error_of_the_network_itself_stays_what_it_is():
    collaboration = Collaboration(made(), "mid", image_shape=SHAPE)
    with pytest.raises(RuntimeError, match="expected input"):
        collaboration(IMAGES[:, :2], LABELS)
