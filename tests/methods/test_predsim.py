"""predsim against numpy."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from small import BATCH, CLASSES, random

from imcl_core import losses
from imcl_core.methods.predsim import predsim_loss


def similarity(rows):
    centred = rows - rows.mean(axis=1, keepdims=True)
    unit = centred / np.linalg.norm(centred, axis=1, keepdims=True)
    return unit @ unit.T


def test_predsim_is_its_two_parts():
    logits, target = random(BATCH, CLASSES), torch.arange(BATCH) % CLASSES
    features = random(BATCH, 4, 3, 3, seed=2)
    z = logits.numpy()
    predicted = -np.mean([row[k] - np.log(np.exp(row).sum()) for row, k in zip(z, target.tolist(), strict=True)])
    difference = similarity(features.numpy().std(axis=(2, 3))) - similarity(np.eye(CLASSES)[target.numpy()])
    expected = 0.2 * predicted + 0.8 * np.mean(difference**2)
    one_hot = F.one_hot(target, CLASSES).double()
    found = predsim_loss(
        logits, losses.similarity_matrix(features), target, losses.similarity_matrix(one_hot), beta=0.8
    )
    assert found.item() == pytest.approx(expected, rel=1e-12)
