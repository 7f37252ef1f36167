"""The figures of chapters 1 to 3 show what they are given."""

import numpy as np
import pytest
from imcl_book import figures
from matplotlib.colors import to_hex

from imcl_core.training.config import RunConfig
from imcl_core.training.record import Record

CLASSES = ["a", "b", "c"]
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


def lines(axis):
    return {line.get_label(): line.get_ydata() for line in axis.lines}


def names(axis):
    return [text.get_text() for text in axis.get_legend().get_texts()]


def record(*errors, methods="baseline"):
    curve = [{"epoch": i + 1, "test_error": error} for i, error in enumerate(errors)]
    return Record(RunConfig(methods=methods), curve, {})


def test_patterns_of_heads_draws_every_copy_and_joins_it_to_its_parent():
    figure = figures.patterns_of_heads({"one": [1, 1], "tree": [1, 2, 4]})
    one, tree = figure.axes
    assert [len(one.patches), len(tree.patches)] == [2, 7]
    assert tree.get_title() == "tree\n4 heads, 7 subnets" and one.get_title() == "one\n1 head, 2 subnets"
    joined = [tuple(line.get_xdata()) for line in tree.lines]
    assert joined[1:3] == [(0, -0.5), (0, 0.5)]
    assert joined[3:] == [(-0.5, -1.5), (-0.5, -0.5), (0.5, 0.5), (0.5, 1.5)]


def test_opinions_and_teachers_has_a_panel_a_head_and_marks_the_label(rng):
    opinions, teachers = rng.dirichlet(np.ones(3), (2, 4))
    figure = figures.opinions_and_teachers(opinions, teachers, CLASSES, label=1)
    assert len(figure.axes) == 4
    for axis, opinion, teacher in zip(figure.axes, opinions, teachers, strict=True):
        assert bars(axis) == [*opinion, *teacher]
    assert [text.get_text() for text in figure.axes[0].get_xticklabels()] == ["a", "[b]", "c"]
    assert len(figure.legends[0].get_texts()) == 2


def test_softening_has_a_line_a_class_and_one_where_all_are_alike(rng):
    values = rng.dirichlet(np.ones(3), 5)
    (axis,) = figures.softening(np.geomspace(1, 16, 5), values, CLASSES).axes
    shown = lines(axis)
    assert all(np.array_equal(shown[name], values[:, i]) for i, name in enumerate(CLASSES))
    assert np.allclose(axis.lines[-1].get_ydata(), 1 / 3) and names(axis) == CLASSES


def test_two_means_shows_heads_left_and_means_right(rng):
    opinions, mean = rng.dirichlet(np.ones(3), 2), np.array([0.2, 0.3, 0.5])
    left, right = figures.two_means(opinions, {"one": mean, "other": mean[::-1]}, CLASSES).axes
    assert bars(left) == opinions.ravel().tolist() and bars(right) == [*mean, *mean[::-1]]
    assert names(left) == ["head 1", "head 2"] and names(right) == ["one", "other"]


def test_hard_and_soft_gradients_keeps_signs_and_lengths():
    gradients = {"hard": np.array([0.1, -0.3, 0.2]), "soft": np.array([-0.1, 0.1, 0.0])}
    lengths = {"hard": [1.0, 1.0], "soft": [0.5, 0.1]}
    left, right = figures.hard_and_soft_gradients(gradients, CLASSES, [1, 2], lengths).axes
    assert bars(left) == [0.1, -0.3, 0.2, -0.1, 0.1, 0.0]
    assert {name: list(values) for name, values in lines(right).items()} == lengths
    assert right.get_yscale() == "log"


def test_errors_by_rate_draws_means_over_seeds_and_ranges():
    errors = {"apart": np.array([[1.0, 3.0], [2.0, 6.0]]), "together": np.array([[5.0, 5.0], [7.0, 9.0]])}
    (axis,) = figures.errors_by_rate([0.1, 0.2], errors).axes
    assert {name: list(values) for name, values in lines(axis).items()} == {"apart": [2, 4], "together": [5, 8]}
    band = axis.collections[0].get_paths()[0].vertices[:, 1]
    assert (band.min(), band.max()) == (1, 6)
    assert [text.get_text() for text in axis.get_xticklabels()] == ["0.1", "0.2"]


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
    marked = [to_hex(axis.title.get_color()) == figures.RED.lower() for axis in figure.axes[:4]]
    assert marked == [True, False, False, True]


def test_last_and_best_joins_the_two_errors_of_every_run():
    (axis,) = figures.last_and_best({"one": [record(9, 4, 5), record(8, 7)], "other": [record(3)]}).axes
    joined = [sorted(line.get_xdata()) for line in axis.lines if len(line.get_xdata()) == 2]
    assert joined == [[4, 5], [7, 7], [3, 3]]
    assert [text.get_text() for text in axis.get_yticklabels()] == ["one", "other"]
    rows = [round(float(line.get_ydata()[0])) for line in axis.lines if len(line.get_xdata()) == 2]
    assert rows == [0, 0, 1]


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
    labels = [to_hex(patch.get_facecolor()) == figures.ORANGE.lower() for patch in axis.patches[7:]]
    assert labels == [False, False, True] * 4
    joined = [line for line in axis.lines if line.get_ydata()[0] != line.get_ydata()[1]]
    assert len(joined) == 6
    assert texts(figure).count("c") == 4 and "four" in texts(figure)


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
    assert lines(axis)["out"] is not None and axis.lines[-1].get_color() == figures.colour("out")


def test_branch_distances_prints_its_values_on_one_scale():
    near, far = np.array([[0.0, 0.1], [0.1, 0.0]]), np.array([[0.0, 0.4], [0.4, 0.0]])
    figure = figures.branch_distances({"out": near, "baseline": far}, "distance")
    left, right = figure.axes[:2]
    assert left.images[0].get_clim() == right.images[0].get_clim() == (0, 0.4)
    assert [text.get_text() for text in left.texts] == ["0.00", "0.10", "0.10", "0.00"]
    assert [text.get_text() for text in left.get_xticklabels()] == ["1", "2"]
