"""Figures of chapter 10: what is drawn is what was given."""

import numpy as np
from imcl_book.figures import your_own_network as figures
from imcl_book.figures.style import colour
from matplotlib.colors import to_rgba


def test_costs_are_bars_by_method_beside_the_network_s_own():
    costs = {"operations": {"out": 0.0005, "mid": 1.5}, "bytes": {"out": 0.0, "mid": 0.1254}}
    figure = figures.costs_by_method(costs)
    for axis, (label, by_method) in zip(figure.axes, costs.items(), strict=True):
        (bars,) = axis.containers
        assert [bar.get_width() for bar in bars] == list(by_method.values())
        assert [bar.get_facecolor() for bar in bars] == [to_rgba(colour(name)) for name in by_method]
        assert axis.get_xlabel().startswith(label)
        assert [line.get_xdata()[0] for line in axis.get_lines()] == [1]
    assert [text.get_text() for axis in figure.axes for text in axis.texts] == ["0.0005", "1.5", "0", "0.125"]
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["out", "mid"]


def test_a_schedule_stands_above_its_terms_which_have_gaps_where_they_are_off():
    factors = {"mid": [0.5, 1.0, 0.0], "kernel": [1.0, 1.0, 1.0]}
    terms = {"hard": [2.0, 1.0, 0.5], "mid": [3.0, 2.0, 0.0], "kernel": [np.nan, 0.1, 0.1]}
    figure = figures.scheduled_terms(factors, terms)
    above, below = figure.axes
    drawn = [line.get_ydata().tolist() for line in above.get_lines()]
    assert drawn == list(factors.values())
    lines = {line.get_label(): line for line in below.get_lines()}
    assert lines.keys() == terms.keys()
    np.testing.assert_array_equal(lines["hard"].get_xydata(), [[1, 2.0], [2, 1.0], [3, 0.5]])
    np.testing.assert_array_equal(lines["mid"].get_ydata(), [3.0, 2.0, np.nan])
    np.testing.assert_array_equal(lines["kernel"].get_ydata(), [np.nan, 0.1, 0.1])
    assert below.get_yscale() == "log"
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == list(terms)
