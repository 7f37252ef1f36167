"""Cutout against every square there is."""

import itertools

import numpy as np
import pytest
import torch

from imcl_core.methods.cutout import cutout


@pytest.mark.parametrize(("size", "before", "after"), [(3, 1, 2), (4, 2, 2), (9, 4, 5)])
def test_cutout_is_a_square_around_each_pixel_cut_off_at_the_border(size, before, after):
    torch.manual_seed(0)
    height, width, count = 5, 6, 6000
    images = torch.full((count, 2, height, width), 7.0)
    expected = np.ones((height * width, height, width))
    for hole, (row, column) in zip(expected, itertools.product(range(height), range(width)), strict=True):
        rows, columns = (
            np.clip([row - before, row + after], 0, height),
            np.clip([column - before, column + after], 0, width),
        )
        hole[slice(*rows), slice(*columns)] = 0
    cut = cutout(images, size) / 7
    assert torch.equal(cut[:, 0], cut[:, 1]) and torch.equal(images, torch.full_like(images, 7.0))
    found, times = np.unique(cut[:, 0].numpy().reshape(count, -1), axis=0, return_counts=True)
    holes, places = np.unique(expected.reshape(height * width, -1), axis=0, return_counts=True)
    assert np.array_equal(found, holes)
    assert np.abs(times / count - places / (height * width)).max() < 0.02
