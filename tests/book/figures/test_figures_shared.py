"""Figures that several chapters show: what is drawn is what was given."""

import numpy as np
import pytest
from imcl_book.figures import shared as figures
from imcl_book.figures.style import colour
from imcl_book.figures.together import learning_curves

from imcl_core.study.tables import judge
from imcl_core.training.config import RunConfig
from imcl_core.training.record import Record


def lines(axis):
    return {line.get_label(): line for line in axis.get_lines() if not line.get_label().startswith("_")}


def test_paired_differences_marks_seeds_mean_and_bounds():
    values = [-1.0, -2.0, 0.0]
    figure = figures.paired_differences({"out": values, "out+mid": [1.0, 1.0, 1.0]})
    (axis,) = figure.axes
    rings = [line for line in axis.get_lines() if line.get_marker() == "o"]
    np.testing.assert_array_equal(rings[0].get_xdata(), values)
    bars = [list(line.get_xdata()) for line in axis.get_lines() if line.get_marker() == "|"]
    assert bars[0] == pytest.approx(judge.bounds(values))
    means = [line.get_xdata()[0] for line in axis.get_lines() if line.get_marker() == "D"]
    assert means == [-1.0, 1.0]
    assert [label.get_text() for label in axis.get_yticklabels()] == ["out", "out+mid"]
    assert "points" in axis.get_xlabel()


def test_gains_stand_beside_what_the_paper_prints():
    methods = {"out": {"paper": [5.4], "augmented": [1.0, 2.0], "not augmented": [-1.0]}, "mid": {"paper": [2.7]}}
    figure = figures.gains_beside_the_paper({"a network": methods, "another": methods})
    for axis in figure.axes:
        by_shape = {line.get_marker(): line for line in axis.get_lines() if line.get_marker() in "Dos"}
        assert [list(by_shape[shape].get_xdata()) for shape in "Dos"] == [[5.4, 2.7], [1.5], [-1.0]]
        bars = [
            list(line.get_xdata()) for line in axis.get_lines() if line.get_lw() == 1.5 and len(line.get_xdata()) == 2
        ]
        assert pytest.approx(judge.bounds([1.0, 2.0])) in bars
        assert [label.get_text() for label in axis.get_yticklabels()] == ["out", "mid"]
        assert axis.yaxis_inverted()
    assert len(figure.legends[0].get_texts()) == 3
    methods["out"]["wide"] = [3.0]
    figure = figures.gains_beside_the_paper({"a network": methods})
    (wide,) = (line for line in figure.axes[0].get_lines() if line.get_marker() == "^")
    assert list(wide.get_xdata()) == [3.0] and len(figure.legends[0].get_texts()) == 4


def test_run_curves_adds_up_the_terms_of_each_part():
    curve = [
        {
            "epoch": n,
            "terms": {"hard": 2.0 / n, "mid/a": 0.25, "mid/b": 0.5 * n},
            "test_loss": 3.0,
            "train_error": 50.0 / n,
            "test_error": 60.0 / n,
        }
        for n in (1, 2)
    ]
    figure = figures.run_curves(Record(RunConfig(methods="mid", epochs=2), curve, {}))
    loss, error = figure.axes
    drawn = {name.split(",")[0]: line.get_ydata() for name, line in lines(loss).items() if "training" in name}
    assert drawn.keys() == {"hard", "mid"}
    np.testing.assert_allclose(drawn["mid"], [0.75, 1.25])
    np.testing.assert_allclose(drawn["hard"], [2.0, 1.0])
    np.testing.assert_allclose(lines(error)["test"].get_ydata(), [60, 30])
    assert "%" in error.get_ylabel()


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
    assert mid.get_color() == own.get_color() == colour("mid") != before.get_color()
    assert mid.get_linestyle() != own.get_linestyle()
    assert set(chance.get_ydata()) == {90}
    assert axis.get_yscale() == "symlog"
    assert axis.get_ylabel() == "test error (%)"


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


def test_curves_skip_epochs_that_were_not_evaluated():
    curve = [{"epoch": n, "terms": {"hard": 1.0}, "train_error": 50.0} for n in (1, 2, 3)]
    curve[1] |= {"test_loss": 3.0, "test_error": 60.0}
    curve[2] |= {"test_loss": 2.0, "test_error": 40.0}
    record = Record(RunConfig(epochs=3), curve, {})
    loss, error = figures.run_curves(record).axes
    for line in (lines(loss)["hard, test"], lines(error)["test"], *learning_curves([record]).axes[0].lines):
        np.testing.assert_array_equal(line.get_xdata(), [2, 3])
    np.testing.assert_array_equal(lines(error)["training"].get_xdata(), [1, 2, 3])


def test_the_curves_of_two_terms_look_different():
    terms = {"hard": 1.0, "decov": 0.5, "hsic/layer": 0.2}
    curve = [{"epoch": 1, "terms": terms, "train_error": 50.0, "test_loss": 3.0, "test_error": 60.0}]
    drawn = lines(figures.run_curves(Record(RunConfig(epochs=1, methods="decov+hsic"), curve, {})).axes[0])
    assert len(drawn) == 4
    assert len({(line.get_color(), line.get_linestyle(), line.get_marker()) for line in drawn.values()}) == 4
