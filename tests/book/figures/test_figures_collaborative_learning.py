"""Figures of chapter 1: what is drawn is what was given."""

import numpy as np
import pytest
from imcl_book.figures import collaborative_learning as figures

CLASSES = ["a", "b", "c"]


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def bars(axis):
    return [patch.get_height() for patch in axis.patches]


def lines(axis):
    return {line.get_label(): line.get_ydata() for line in axis.lines}


def names(axis):
    return [text.get_text() for text in axis.get_legend().get_texts()]


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
