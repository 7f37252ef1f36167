"""Figures of chapter 3: what is drawn is what was given."""

import numpy as np
import pytest
from imcl_book.figures import output_layer as figures
from imcl_book.figures.style import ORANGE, colour
from matplotlib.colors import to_hex

CLASSES = ["a", "b", "c"]


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def texts(figure):
    figure.canvas.draw()
    return [text.get_text() for axis in figure.axes for text in axis.texts]


def lines(axis):
    return {line.get_label(): line.get_ydata() for line in axis.lines}


def names(axis):
    return [text.get_text() for text in axis.get_legend().get_texts()]


def test_dropout_tree_shows_every_mask_and_prediction(rng):
    units = [rng.random((count, 10)) for count in (1, 2, 4)]
    units[2][1, :5] = np.nan
    predictions = rng.dirichlet(np.ones(3), 4)
    figure = figures.dropout_tree(units, ["one", "two", "four"], predictions, CLASSES, label=2)
    (axis,) = figure.axes
    assert len(axis.images) == 7
    found = axis.images[4].get_array()
    assert found.shape == (4, 4) and np.ma.getmaskarray(found).sum() == 5 + 6  # dropped, and to fill the square
    heights = [patch.get_height() for patch in axis.patches[7:]]
    assert np.allclose(heights, 0.7 * predictions.ravel())
    labels = [to_hex(patch.get_facecolor()) == ORANGE.lower() for patch in axis.patches[7:]]
    assert labels == [False, False, True] * 4
    joined = [line for line in axis.lines if line.get_ydata()[0] != line.get_ydata()[1]]
    assert len(joined) == 6
    assert texts(figure).count("c") == 4 and "four" in texts(figure)


def test_dropout_tree_names_the_label_the_likeliest_class_and_every_colour():
    units, predictions = [np.ones((1, 4))], np.array([[0.7, 0.1, 0.2]])
    figure = figures.dropout_tree(units, ["one"], predictions, CLASSES, label=2)
    assert texts(figure) == ["one", "a", "c", "prediction"]
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["dropped", "the label", "another class"]
    assert to_hex(legend.get_patches()[1].get_facecolor()) == ORANGE.lower()
    assert figure.get_figwidth() < 5  # a telephone shrinks it little


def test_branches_by_epoch_shows_every_branch_and_their_mean(rng):
    values = rng.random((5, 4))
    figure = figures.branches_by_epoch({"baseline": values, "out": values / 2}, "probability")
    assert len(figure.axes) == 2
    for axis, expected in zip(figure.axes, (values, values / 2), strict=True):
        shown = [line.get_ydata() for line in axis.lines]
        assert np.array_equal(shown[:4], expected.T) and np.allclose(shown[4], expected.mean(axis=1))
        colours = [line.get_color() for line in axis.lines[:4]]
        assert colours[0] == colours[1] != colours[2] == colours[3]  # siblings alike


def test_branches_by_epoch_tells_nine_branches_apart(rng):
    (axis,) = figures.branches_by_epoch({"out": rng.random((2, 9))}, "probability").axes
    styles = [(line.get_color(), line.get_linestyle()) for line in axis.lines[:9]]
    assert len(set(styles)) == 9


def test_seeds_by_epoch_has_a_thin_line_a_seed_and_a_thick_mean():
    runs = np.array([[1.0, 2.0, 3.0], [3.0, 4.0, 7.0]])
    (axis,) = figures.seeds_by_epoch({"baseline": runs, "out": runs / 2}, "distance").axes
    assert np.array_equal(lines(axis)["baseline"], [2, 3, 5]) and np.array_equal(lines(axis)["out"], [1, 1.5, 2.5])
    assert len(axis.lines) == 6 and names(axis) == ["baseline", "out"]
    assert lines(axis)["out"] is not None and axis.lines[-1].get_color() == colour("out")


def test_branch_distances_prints_its_values_on_one_scale():
    near, far = np.array([[0.0, 0.1], [0.1, 0.0]]), np.array([[0.0, 0.4], [0.4, 0.0]])
    figure = figures.branch_distances({"out": near, "baseline": far}, "distance")
    left, right = figure.axes[:2]
    assert left.images[0].get_clim() == right.images[0].get_clim() == (0, 0.4)
    assert [text.get_text() for text in left.texts] == ["0.00", "0.10", "0.10", "0.00"]
    assert [text.get_text() for text in left.get_xticklabels()] == ["1", "2"]
