"""Figures of chapter 2: what is drawn is what was given."""

import numpy as np
import pytest
from imcl_book.figures import data_and_backbones as figures
from imcl_book.figures.style import RED
from matplotlib.colors import to_hex

from imcl_core.training.config import RunConfig
from imcl_core.training.record import Record

LAYERS = [
    {"group": 0, "channels": 4, "side": 8, "adds": None, "parameters": 10, "activations": 60},
    {"group": 1, "channels": 8, "side": 4, "adds": None, "parameters": 30, "activations": 20},
    {"group": 1, "channels": 8, "side": 4, "adds": 0, "parameters": 60, "activations": 20},
]


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def bars(axis):
    return [patch.get_height() for patch in axis.patches]


def texts(figure):
    figure.canvas.draw()
    return [text.get_text() for axis in figure.axes for text in axis.texts]


def names(axis):
    return [text.get_text() for text in axis.get_legend().get_texts()]


def record(*errors, methods="baseline"):
    curve = [{"epoch": i + 1, "test_error": error} for i, error in enumerate(errors)]
    return Record(RunConfig(methods=methods), curve, {})


def test_image_grid_puts_each_image_in_its_place_the_right_way_up(rng):
    images = rng.integers(0, 256, (2, 3, 3, 4, 5), dtype=np.uint8)
    figure = figures.image_grid(images, rows=["x", "y"], columns=["1", "2", "3"])
    shown = [axis.images[0].get_array() for axis in figure.axes]
    assert all(
        np.array_equal(found, image.transpose(1, 2, 0))
        for found, image in zip(shown, images.reshape(6, 3, 4, 5), strict=True)
    )
    assert [figure.axes[i].get_ylabel() for i in (0, 3)] == ["x", "y"]
    assert [axis.get_title() for axis in figure.axes] == ["1", "2", "3", "", "", ""]


def test_network_diagram_has_bars_as_long_as_the_maps_and_an_arc_a_shortcut():
    figure = figures.network_diagram({"small": LAYERS, "smaller": LAYERS[:2]})
    assert [[bar.get_width() for bar in axis.patches] for axis in figure.axes] == [[8, 4, 4], [8, 4]]
    arcs = [text for text in figure.axes[0].texts if getattr(text, "arrow_patch", None)]
    assert [(arc.xyann[1], arc.xy[1]) for arc in arcs] == [(0, 2)]
    assert "8 × 4×4" in texts(figure)
    low, high = figure.axes[0].get_ylim()
    assert low > high  # the input is on top


def test_parameters_and_activations_are_shares_of_a_hundred():
    figure = figures.parameters_and_activations({"small": LAYERS})
    (axis,) = figure.axes
    assert bars(axis) == [60, 20, 20, 10, 30, 60] and names(axis) == ["activations", "parameters"]


def test_captioned_images_mark_what_is_wrong(rng):
    images = rng.integers(0, 256, (4, 3, 2, 2), dtype=np.uint8)
    figure = figures.captioned_images(images, ["p", "q", "r", "s"], [True, False, False, True], columns=3)
    assert len(figure.axes) == 6
    assert [len(axis.images) for axis in figure.axes] == [1, 1, 1, 1, 0, 0]
    assert [axis.get_title() for axis in figure.axes[:4]] == ["p", "q", "r", "s"]
    marked = [to_hex(axis.title.get_color()) == RED.lower() for axis in figure.axes[:4]]
    assert marked == [True, False, False, True]


def test_last_and_best_joins_the_two_errors_of_every_run():
    (axis,) = figures.last_and_best({"one": [record(9, 4, 5), record(8, 7)], "other": [record(3)]}).axes
    joined = [sorted(line.get_xdata()) for line in axis.lines if len(line.get_xdata()) == 2]
    assert joined == [[4, 5], [7, 7], [3, 3]]
    assert [text.get_text() for text in axis.get_yticklabels()] == ["one", "other"]
    rows = [round(float(line.get_ydata()[0])) for line in axis.lines if len(line.get_xdata()) == 2]
    assert rows == [0, 0, 1]
