"""DeCov against a loop over pairs of units, and where it reads."""

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from small import make, make_batch, random
from torch import nn

from imcl_core import Collaboration
from imcl_core.methods.decov import decov_loss


def test_decov_is_the_sum_over_pairs_of_units():
    h = random(7, 4).numpy()
    total = 0.0
    for i, j in itertools.permutations(range(4), 2):
        total += np.mean([(row[i] - h[:, i].mean()) * (row[j] - h[:, j].mean()) for row in h]) ** 2
    assert decov_loss(torch.from_numpy(h)).item() == pytest.approx(total / 2, rel=1e-12)


def test_decov_reads_hidden_units_behind_their_normalisation_and_activation():
    head = nn.Sequential(
        nn.Flatten(),
        nn.Linear(4 * 8 * 8, 6),
        nn.BatchNorm1d(6),
        nn.ReLU(),
        nn.Dropout(0.0),
        nn.Linear(6, 5),
        nn.Linear(5, 3),
    )
    network = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), head)
    collaboration = Collaboration(network, "decov", image_shape=(3, 8, 8))
    images, labels = torch.randn(7, 3, 8, 8), torch.arange(7) % 3
    hidden = head[:4](network[0](images))
    collaboration(images, labels)
    weight = collaboration.settings.decov_weight
    expected = {"decov/1.1": decov_loss(hidden), "decov/1.5": decov_loss(head[5](hidden))}
    found = {name: value for name, value in collaboration.terms.items() if name != "hard"}
    assert found.keys() == expected.keys()
    assert all(found[name].item() == pytest.approx(weight * expected[name].item(), rel=1e-4) for name in found)


@pytest.mark.parametrize(
    ("behind", "read"),
    [
        ((nn.SELU(), nn.AlphaDropout(0.0)), 2),
        ((nn.LayerNorm(6), nn.PReLU(), nn.Dropout(0.0)), 3),
        ((nn.ReLU(), nn.Unflatten(1, (6, 1, 1)), nn.Conv2d(6, 6, 1), nn.Flatten()), 2),
        ((nn.GLU(), nn.ConstantPad1d((0, 3), 0.0)), 1),
        ((nn.ReLU(), nn.AvgPool1d(2), nn.ConstantPad1d((0, 3), 0.0)), 2),
    ],
)
def test_decov_stops_at_what_does_not_change_hidden_units_one_by_one(behind, read):
    head = nn.Sequential(nn.Flatten(), nn.Linear(4 * 8 * 8, 6), *behind, nn.Linear(6, 3))
    network = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), head)
    (place,) = Collaboration(network, "decov", image_shape=(3, 8, 8))._terms["decov"].reads
    assert place.source == f"1.{read}"


def test_decov_reads_every_hidden_layer_of_the_classifier_and_no_other():
    collaboration = make("decov", dropout=0.0, decov_weight=0.1)
    images, labels = make_batch()
    c = collaboration.network.classifier
    features = collaboration.network.pool(collaboration.network.trunk(images))
    first = F.relu(c[0](features))
    second = F.relu(c[3](first))
    collaboration(images, labels)
    expected = {"decov/classifier.0": 0.1 * decov_loss(first), "decov/classifier.3": 0.1 * decov_loss(second)}
    found = {name: value for name, value in collaboration.terms.items() if name != "hard"}
    assert found.keys() == expected.keys()
    assert all(found[name].item() == pytest.approx(expected[name].item()) for name in found)
