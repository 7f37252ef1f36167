"""Figures of chapter 11: what is drawn is what was given."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
from imcl_book.figures import neighbours as figures
from imcl_book.figures.style import BLUE, ORANGE
from matplotlib.colors import to_hex

HELD = {"out": {"ResNet-18": -1.0, "VGG-16": 2.0}, "cutout": {"ResNet-18": 2.5}}
TESTED = {"kd": {"VGG-16": [1.0, 2.0, 0.0]}, "out": {"ResNet-18": [-0.5, 0.25]}}


@pytest.fixture
def at_work():
    rng = np.random.default_rng(0)
    images, maps = rng.random((3, 8, 8, 3)), rng.random((10, 4, 4))
    kept = {"spatial-dropout": np.ones(maps.shape, bool), "dropblock": np.ones(maps.shape, bool)}
    kept["spatial-dropout"][1], kept["dropblock"][9, :3, :3] = False, False
    covariances = {"before": np.array([[4.0, 2.0], [2.0, 4.0]]), "after": np.array([[1.0, 0.0], [0.0, 0.0]])}
    relations = {"similarity": np.eye(3), "kernel": 0.01 * np.ones((3, 3))}
    given = images, 0.5 * images, maps, kept, covariances, relations
    return given, figures.neighbours_at_work(*given)


def shown(figure):
    return [np.ma.filled(axis.images[0].get_array().astype(float), np.nan) for axis in figure.axes]


def test_images_stand_above_what_is_left_of_them(at_work):
    (images, cut, *_), figure = at_work
    for drawn, given in zip(shown(figure)[:6], [*images, *cut], strict=True):
        np.testing.assert_array_equal(drawn, given)


def test_dropped_units_are_orange_and_no_others(at_work):
    (_, _, maps, kept, *_), figure = at_work
    masks = [np.ones(maps.shape, bool), *kept.values()]
    for axis, drawn, mask in zip(figure.axes[6:9], shown(figure)[6:9], masks, strict=True):
        assert drawn.shape == (9, 8 * 5 - 1)  # two rows of eight maps, four units each and a line between
        assert np.isnan(drawn).sum() == (~mask).sum()
        assert drawn[0, 0] == (maps[0, 0, 0] if mask[0, 0, 0] else np.nan)
        np.testing.assert_array_equal(drawn[5:, 5:9], np.where(mask[9], maps[9], np.nan))
        assert (drawn[4] > maps.max()).all()
        assert axis.images[0].get_clim()[1] == maps.max()
        assert to_hex(axis.images[0].get_cmap().get_over()) == "#ffffff"
        assert to_hex(axis.images[0].get_cmap().get_bad()) == ORANGE.lower()
    names = [axis.get_title() for axis in figure.axes[6:9]]
    assert names[1:] == list(kept)


def test_covariances_share_a_scale_and_correlations_have_their_own(at_work):
    figure = at_work[1]
    axes, drawn = figure.axes[9:13], shown(figure)[9:13]
    assert [axis.get_title() for axis in axes] == [
        f"{name}\n{kind}" for kind in ("covariance", "correlation") for name in ("before", "after")
    ]
    np.testing.assert_allclose(drawn[2], [[1.0, 0.5], [0.5, 1.0]])
    np.testing.assert_allclose(drawn[3], [[1.0, 0.0], [0.0, 0.0]])  # a constant unit has no correlation
    limits = [axis.images[0].get_clim() for axis in axes]
    assert limits[0] == limits[1] and limits[2] == limits[3] == (-1, 1)
    relations = [axis.images[0].get_clim() for axis in figure.axes[13:]]
    assert relations[0] != relations[1]


def test_the_picture_is_not_shown_twice(at_work):
    assert not plt.get_fignums()


def drawn(axis, label):
    return {tuple(map(float, line.get_ydata())): line for line in axis.get_lines() if line.get_label() == label}


def test_methods_are_sorted_by_their_mean_and_the_papers_stand_out():
    figure = figures.neighbours_compared(HELD, TESTED, {}, ["out"])
    left, right = figure.axes
    order = ["cutout", "out", "kd"]  # kd has nothing on held-out images
    assert [label.get_text() for label in left.get_yticklabels()] == order
    assert left.get_ylim()[0] > left.get_ylim()[1]  # the first row on top
    for network, shift in (("ResNet-18", -0.15), ("VGG-16", 0.15)):
        held, tested = drawn(left, network), drawn(right, network)
        assert {y[0]: line.get_xdata()[0] for y, line in held.items()} == {
            order.index(name) + shift: of[network] for name, of in HELD.items() if network in of
        }
        assert {y[0]: line.get_xdata()[0] for y, line in tested.items()} == {
            order.index(name) + shift: np.mean(of[network]) for name, of in TESTED.items() if network in of
        }
        assert {line.get_color() for y, line in held.items() if round(y[0]) == 1} <= {ORANGE}
        assert {line.get_color() for y, line in held.items() if round(y[0]) == 0} <= {BLUE}
    looks = {line.get_marker() for axis in figure.axes for line in axis.get_lines() if line.get_marker() != "None"}
    assert looks == {"o", "s"}
    (legend,) = figure.legends
    assert [t.get_text() for t in legend.get_texts()] == ["the paper's four", "others", "ResNet-18", "VGG-16"]


def test_there_is_a_bar_where_there_are_bounds():
    _, right = figures.neighbours_compared(HELD, TESTED, {"kd": {"VGG-16": (-0.7, 2.7)}}, ["out"]).axes
    ((place, bar),) = drawn(right, "_bounds").items()
    assert list(bar.get_xdata()) == [-0.7, 2.7] and place == (2.15, 2.15)


def test_the_comparison_is_drawn_of_one_half_alone():
    for held, tested in ((HELD, {}), ({}, TESTED)):
        left, _ = figures.neighbours_compared(held, tested, {}, ["out"]).axes
        assert len(left.get_yticklabels()) == len(held or tested)
