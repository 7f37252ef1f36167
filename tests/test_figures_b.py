"""The figures of chapters 4 to 6 show the numbers they are given."""

import numpy as np
import pytest
from imcl_book import figures


def test_every_layer_has_all_deeper_teachers_and_their_shares_add_up_to_one():
    figure = figures.teachers(5)
    shares = np.ma.filled(figure.axes[1].images[0].get_array(), np.nan)
    assert shares.shape == (4, 5)
    assert np.allclose(np.nansum(shares, axis=1), 1)
    assert np.array_equal(np.isnan(shares), np.tri(4, 5, dtype=bool))  # nobody teaches itself or what is deeper
    arrows = [text for text in figure.axes[0].texts if getattr(text, "arrow_patch", None) and text.xy[1] == 0]
    assert sorted((a.xyann[0], a.xy[0]) for a in arrows) == [(j, i) for j in range(5) for i in range(j)]


def test_only_exact_zeros_of_gradients_are_empty():
    norms = np.array([[1.0, 0.0, 1e-9], [0.0, 2.0, 0.0]])
    figure = figures.gradient_reach({"local": norms, "not local": norms + 1}, ["hard", "mid 1"], ["1", "2", "its head"])
    local, ordinary = (axis.images[0] for axis in figure.axes[:2])
    assert np.array_equal(np.ma.getmaskarray(local.get_array()), norms == 0)
    assert not np.ma.getmaskarray(ordinary.get_array()).any()
    assert local.norm.vmin == ordinary.norm.vmin == pytest.approx(1e-9)  # one scale for both panels
    assert local.norm.vmax == ordinary.norm.vmax == 3
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["hard", "mid 1"]
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == ["1", "2", "its head"]


def test_curves_by_depth_count_layers_from_one_and_tell_two_of_a_method_apart():
    curves = {"before training": [3, 2], "mid": [2.0, 0.0], "mid, its own local classifiers": [5.0, 4.0]}
    figure = figures.by_depth(curves, "test error (%)", {"chance": 90.0}, log=True)
    axis = figure.axes[0]
    before, mid, own, chance = axis.lines
    assert np.array_equal(mid.get_xdata(), [1, 2])
    assert np.array_equal(own.get_ydata(), [5, 4])
    assert mid.get_color() == own.get_color() == figures.colour("mid") != before.get_color()
    assert mid.get_linestyle() != own.get_linestyle()
    assert set(chance.get_ydata()) == {90}
    assert axis.get_yscale() == "symlog"
    assert axis.get_ylabel() == "test error (%)"


def test_descriptors_are_the_standard_deviations_of_the_maps():
    rng = np.random.default_rng(0)
    images, maps = rng.random((2, 6, 6, 3)), rng.random((2, 4, 6, 6))
    maps[1, 2] = 0.5  # a constant map
    figure = figures.descriptors(images, maps, ["as it is", "moved"])
    axes = np.array(figure.axes).reshape(2, 6)
    assert np.array_equal(axes[1, 3].images[0].get_array(), maps[1, 2])
    heights = [bar.get_height() for bar in axes[1, -1].patches]
    assert np.allclose(heights, maps[1].std(axis=(1, 2)))
    assert heights[2] == 0


def test_matrices_share_one_scale_around_zero():
    a, b = np.eye(3), -np.eye(3)
    figure = figures.matrices({"before": {"x": a, "y": b}, "after": {"x": b, "y": a}}, "similarity", limit=0.5)
    axes = np.array(figure.axes[:4]).reshape(2, 2)
    assert np.array_equal(axes[1, 0].images[0].get_array(), b)
    assert all(axis.images[0].get_clim() == (-0.5, 0.5) for axis in axes.flat)
    assert [axis.get_title() for axis in axes[0]] == ["x", "y"]
    assert [axis.get_ylabel() for axis in axes[:, 0]] == ["before", "after"]
    with pytest.raises(ValueError, match="zip"):  # a row that lacks a column
        figures.matrices({"before": {"x": a, "y": b}, "after": {"x": b}}, "similarity")


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
