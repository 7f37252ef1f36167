"""Figures of chapter 7: what is drawn is what was given."""

import numpy as np
from imcl_book.figures import together as figures
from imcl_book.figures.style import COLOURS

from imcl_core import Record, RunConfig


def lines(axis):
    return {line.get_label(): line for line in axis.get_lines() if not line.get_label().startswith("_")}


def test_gradient_norms_draws_each_part_and_leaves_out_what_it_does_not_reach():
    nan = float("nan")
    figure = figures.gradient_norms({"out": [1.0, 0.1, 0.5], "kernel": [nan, nan, 0.01]})
    (axis,) = figure.axes
    drawn = lines(axis)
    np.testing.assert_array_equal(drawn["out"].get_xydata(), [[1, 1.0], [2, 0.1], [3, 0.5]])
    np.testing.assert_array_equal(drawn["kernel"].get_ydata(), [nan, nan, 0.01])
    assert drawn["kernel"].get_color() == COLOURS["kernel"]
    assert axis.get_yscale() == "log"


def test_combinations_rings_the_lowest_and_marks_the_baseline():
    errors = {"A": {"out": 3.0, "mid": 2.0, "out+mid": 2.5}, "B": {"out": 5.0, "mid": 4.5, "out+mid": 4.25}}
    figure = figures.combinations(errors, {"A": 4.0, "B": 6.0})
    assert [axis.get_title() for axis in figure.axes] == ["A", "B"]
    assert [axis.texts[0].get_text() for axis in figure.axes] == ["2.00", "4.25"]
    assert [axis.texts[0].xy for axis in figure.axes] == [(2.0, 1), (4.25, 2)]
    for axis, (network, values) in zip(figure.axes, errors.items(), strict=True):
        points = [line.get_xdata()[0] for line in axis.get_lines() if line.get_markersize() == 5]
        assert points == list(values.values())
        (dotted,) = [line for line in axis.get_lines() if line.get_linestyle() == ":"]
        assert dotted.get_xdata()[0] == {"A": 4.0, "B": 6.0}[network]


def test_learning_curves_of_two_combinations_look_different():
    def record(methods):
        curve = [{"epoch": e, "test_error": 50.0 - e} for e in (1, 2)]
        return Record(RunConfig(methods=methods, epochs=2), curve, {"device": "Processor"})

    methods = ("baseline", "out+mid", "mid+kernel")
    drawn = lines(figures.learning_curves([record(m) for m in methods]).axes[0])
    assert drawn["baseline"].get_color() == COLOURS["baseline"]
    assert len({(line.get_color(), line.get_marker()) for line in drawn.values()}) == len(methods)
