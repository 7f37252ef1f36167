"""Figures of chapter 12: what is drawn is what was given."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
from imcl_book.figures import beyond_classification as figures
from imcl_book.figures.style import colour
from matplotlib.colors import to_hex

CLASSES = ("lying stripes", "rising stripes", "checks")
IMAGE = np.random.default_rng(0).integers(256, size=(3, 4, 5), dtype=np.uint8)
LABELS = np.arange(20).reshape(4, 5) % 3
VALUES = {"baseline": [40.0, 42.0], "mid": [41.0, 45.0], "mid+pull-push": [39.0, 38.0]}
DIFFERENCES = {"mid": [1.0, 3.0], "mid+pull-push": [-1.0, -4.0]}


def shade(axis, row, column):
    """The colour of a pixel of a map of labels."""
    picture = axis.images[0]
    return to_hex(picture.cmap(picture.norm(picture.get_array()))[row, column]).upper()


def test_images_stand_beside_labels_in_the_colours_of_the_legend():
    ignored = LABELS.copy()
    ignored[0, 0] = 255
    rows = {"before": {"image": IMAGE, "labels": LABELS}, "after": {"image": IMAGE[::-1], "labels": ignored}}
    figure = figures.label_maps(rows, CLASSES)
    one, two, three, four = figure.axes
    np.testing.assert_array_equal(one.images[0].get_array(), IMAGE.transpose(1, 2, 0))
    np.testing.assert_array_equal(three.images[0].get_array(), IMAGE[::-1].transpose(1, 2, 0))
    np.testing.assert_array_equal(two.images[0].get_array(), LABELS)
    assert [one.get_title(), two.get_title(), three.get_title()] == ["image", "labels", ""]
    assert [one.get_ylabel(), three.get_ylabel()] == ["before", "after"]
    (legend,) = figure.legends
    named = {text.get_text(): to_hex(patch.get_facecolor()).upper() for text, patch in
             zip(legend.get_texts(), legend.get_patches(), strict=True)}  # fmt: skip
    assert list(named) == list(CLASSES)
    for place in np.ndindex(LABELS.shape):
        assert shade(two, *place) == named[CLASSES[LABELS[place]]]
    assert shade(four, 0, 0) == figures.UNLABELLED and shade(four, 0, 1) == shade(two, 0, 1)
    assert not plt.get_fignums()


@pytest.fixture
def at_pixels():
    predictions = np.random.default_rng(1).dirichlet(np.ones(3), size=(2, 4, 5)).transpose(0, 3, 1, 2)
    predictions[:, :, 0, 0] = [[1, 0, 0], [1, 0, 0]]
    predictions[:, :, 0, 1] = 1 / 3
    return predictions, figures.predictions_of_pixels(IMAGE, LABELS, predictions, CLASSES, (2, 4))


def test_each_prediction_is_a_map_and_the_place_is_ringed_in_all(at_pixels):
    predictions, figure = at_pixels
    above = figure.axes[:4]
    assert [axis.get_title() for axis in above] == ["image", "labels", "mask 1", "mask 2"]
    for axis, given in zip(above[1:], [LABELS, *predictions.argmax(axis=1)], strict=True):
        np.testing.assert_array_equal(axis.images[0].get_array(), given)
    for axis in figure.axes[:5]:
        assert all((line.get_xdata()[0], line.get_ydata()[0]) == (4, 2) for line in axis.get_lines())


def test_entropy_is_that_of_the_mean_and_bars_are_those_of_the_place(at_pixels):
    predictions, figure = at_pixels
    left, right = figure.axes[4:6]
    entropy = left.images[0].get_array()
    assert entropy[0, 0] == pytest.approx(0) and entropy[0, 1] == pytest.approx(np.log(3))
    mean = predictions[:, :, 3, 2].mean(axis=0)
    assert entropy[3, 2] == pytest.approx(-(mean * np.log(mean)).sum())
    assert left.images[0].get_clim() == (0, pytest.approx(np.log(3)))
    drawn = [[bar.get_height() for bar in bars] for bars in right.containers]
    np.testing.assert_allclose(drawn, predictions[:, :, 2, 4])
    names = [label.get_text() for label in right.get_xticklabels()]
    assert [name.startswith("[") for name in names] == [label == LABELS[2, 4] for label in range(3)]


def test_seeds_are_rings_means_are_marks_and_bounds_are_bars():
    figure = figures.dense_compared(VALUES, DIFFERENCES, {"mid": (-4.0, 8.0)}, "mIoU (%)")
    left, right = figure.axes
    for axis, given in ((left, VALUES), (right, DIFFERENCES)):
        rings = [list(line.get_xdata()) for line in axis.get_lines() if line.get_label() == "_seeds"]
        assert rings == list(given.values())
        marks = {line.get_label(): line for line in axis.get_lines() if line.get_label() in VALUES}
        assert {name: mark.get_xdata()[0] for name, mark in marks.items()} == {n: np.mean(v) for n, v in given.items()}
        assert all(mark.get_color() == colour(name) for name, mark in marks.items())
        rows = [round(mark.get_ydata()[0] + 0.1) for mark in marks.values()]
        assert rows == [list(VALUES).index(name) for name in marks]
    (bar,) = [line for line in right.get_lines() if line.get_label() == "_bounds"]
    assert list(bar.get_xdata()) == [-4.0, 8.0] and round(bar.get_ydata()[0] + 0.1) == 1
    assert [text.get_text() for text in left.get_yticklabels()] == ["baseline (2)", "mid (2)", "mid+pull-push (2)"]
    assert left.get_xlabel() == "mIoU (%)" and "baseline" in right.get_xlabel()


def test_curves_are_means_over_seeds_and_the_band_is_the_baselines():
    curves = {"baseline": np.array([[1.0, 2.0, 4.0], [3.0, 6.0, 8.0]]), "mid": np.array([[0.0, 1.0, 2.0]])}
    figure = figures.curves_by_method(curves, "mIoU (%)")
    (axis,) = figure.axes
    drawn = {line.get_label(): line.get_xydata().tolist() for line in axis.get_lines()}
    assert drawn == {"baseline": [[1, 2], [2, 4], [3, 6]], "mid": [[1, 0], [2, 1], [3, 2]]}
    (band,) = axis.collections
    corners = band.get_paths()[0].vertices
    assert corners[:, 1].min() == 1 and corners[:, 1].max() == 8
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == list(curves)
