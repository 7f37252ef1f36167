"""Figures of chapter 6: what is drawn is what was given."""

import numpy as np
import pytest
from imcl_book.figures import kernels as figures


@pytest.mark.parametrize("channels", [1, 3, 5, 16])
def test_filters_are_standardised_and_keep_every_weight(channels):
    kernel = np.random.default_rng(channels).normal(7, 3, (channels, 3, 3))
    figure = figures.filter_pairs({"kernel": [("most alike", kernel, -kernel)]})
    left, right = (np.ma.filled(axis.images[0].get_array(), np.nan) for axis in figure.axes[:2])
    shown = left[~np.isnan(left)]
    standard = (kernel - kernel.mean()) / kernel.std()
    assert np.allclose(np.sort(shown), np.sort(standard.ravel()))
    assert np.allclose(left[:3, :3], standard[0])
    assert np.allclose(left, -right, equal_nan=True)
    assert figure.axes[0].get_title(loc="left") == "most alike"


def test_every_pair_has_a_row_and_the_name_of_its_layer():
    pair = np.ones((2, 1, 3, 3)) * [[1.0], [2.0], [4.0]]
    figure = figures.filter_pairs({"layer 2": [("alike", *pair), ("opposite", *pair)], "layer 13": [("alike", *pair)]})
    first = figure.axes[:6:2]
    assert [axis.get_ylabel() for axis in first] == ["layer 2", "layer 2", "layer 13"]
    assert [axis.get_title(loc="left") for axis in first] == ["alike", "opposite", "alike"]
    assert figure.get_figwidth() * figure.dpi <= 390


def test_redundancy_shows_the_portion_of_pairs_by_their_covariance():
    bins = np.array([0, 0.25, 0.5, 0.75, 1])
    counts = {"a network": {"baseline": np.array([5, 3, 2, 0]), "kernel": np.array([8, 0, 0, 0])}, "another": {}}
    figure = figures.redundancy(counts, bins)
    first, second = (axis.patches for axis in figure.axes)
    portions = {patch.get_label(): patch.get_data().values for patch in first}
    assert portions["baseline"].tolist() == [50, 30, 20, 0] and portions["kernel"].tolist() == [100, 0, 0, 0]
    assert not len(second) and [axis.get_title() for axis in figure.axes] == ["a network", "another"]
