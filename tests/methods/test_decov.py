"""DeCov against a loop over pairs of units, and where it reads."""

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from small import make, make_batch, random

from imcl_core.methods.decov import decov_loss


def test_decov_is_the_sum_over_pairs_of_units():
    h = random(7, 4).numpy()
    total = 0.0
    for i, j in itertools.permutations(range(4), 2):
        total += np.mean([(row[i] - h[:, i].mean()) * (row[j] - h[:, j].mean()) for row in h]) ** 2
    assert decov_loss(torch.from_numpy(h)).item() == pytest.approx(total / 2, rel=1e-12)


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
