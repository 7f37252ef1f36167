"""predsim against numpy, and what its classifiers see against loops."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from small import BATCH, CLASSES, make, random

from imcl_core import losses
from imcl_core.methods.predsim import PredSimHead, predsim_loss


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


def authors_windows(channels, side, features):
    """As `LocalLossBlockConv` finds the window (height, width) for square maps, line by line."""
    ks_h, ks_w = 1, 1
    dim_out_h, dim_out_w = side, side
    dim_in_decoder = channels * dim_out_h * dim_out_w
    while dim_in_decoder > features and ks_h < side:
        ks_h *= 2
        dim_out_h = math.ceil(side / ks_h)
        dim_in_decoder = channels * dim_out_h * dim_out_w
        if dim_in_decoder > features:
            ks_w *= 2
            dim_out_w = math.ceil(side / ks_w)
            dim_in_decoder = channels * dim_out_h * dim_out_w
    return (ks_h, ks_w), (dim_out_h, dim_out_w)


def means_in_windows(maps, windows, sides):
    """The mean of each window: where it does not divide a side, zeros stand around the map and count."""
    pads = [w * (left - n // w) // 2 for w, left, n in zip(windows, sides, maps.shape[2:], strict=True)]
    padded = np.pad(maps, [(0, 0), (0, 0), *((pad, pad) for pad in pads)])
    found = np.empty((*maps.shape[:2], *sides))
    for i in range(sides[0]):
        for j in range(sides[1]):
            top, left = i * windows[0], j * windows[1]
            found[:, :, i, j] = padded[:, :, top : top + windows[0], left : left + windows[1]].mean(axis=(2, 3))
    return found


@pytest.mark.parametrize("side", [1, 2, 3, 4, 6, 7, 8, 12, 24, 32, 96])
@pytest.mark.parametrize(("channels", "features"), [(8, 4096), (64, 4096), (128, 4096), (512, 4096), (3, 20), (5, 4)])
def test_its_classifiers_see_what_the_authors_see(channels, side, features):
    windows, sides = authors_windows(channels, side, features)
    head, maps = PredSimHead(channels, (side, side), CLASSES, features).double(), random(2, channels, side, side)
    assert head.predict.in_features == channels * sides[0] * sides[1]
    np.testing.assert_allclose(head.pool(maps).numpy(), means_in_windows(maps.numpy(), windows, sides), atol=1e-12)
    assert torch.equal(head(maps)[0], head.predict.bias.expand(2, CLASSES))  # it starts at 0


def test_the_papers_widths_give_4096_features_at_every_size():
    found = [PredSimHead(c, (n, n), 10).pool for c, n in ((64, 32), (128, 16), (256, 8), (512, 4))]
    assert [tuple(pool(torch.zeros(1, c, n, n)).shape[1:]) for pool, c, n in zip(
        found, (64, 128, 256, 512), (32, 16, 8, 4), strict=True
    )] == [(64, 8, 8), (128, 4, 8), (256, 4, 4), (512, 2, 4)]  # fmt: skip


@pytest.mark.parametrize("model", ["resnet18", "vgg16"])
def test_every_layer_of_both_networks_is_pooled_as_the_authors_do(model):
    for settings in ({}, {"predsim_features": 256}):
        collaboration = make("predsim", model, **settings)
        most = settings.get("predsim_features", 4096)
        for place in collaboration._terms["predsim"].reads:
            channels, height, width = place.shape
            _, sides = authors_windows(channels, height, most)
            head = collaboration.heads[f"predsim/{place.name}".replace(".", "/")]
            assert height == width and head.predict.in_features == channels * sides[0] * sides[1] <= most


def test_maps_that_are_no_squares_keep_no_side_below_one():
    head = PredSimHead(4, (1, 50), CLASSES, features=30)
    assert head.pool(torch.ones(1, 4, 1, 50)).shape == (1, 4, 1, 7)
    assert head(torch.ones(1, 4, 1, 50))[0].shape == (1, CLASSES)


def test_the_square_of_earlier_runs():
    head, maps = PredSimHead(8, (32, 32), CLASSES, pool="square"), random(2, 8, 32, 32).float()
    assert torch.equal(head.pool(maps), F.adaptive_avg_pool2d(maps, 22))
    assert head.predict.in_features == 8 * 22 * 22
