"""Figures of the results: what is drawn is what was given."""

from imcl_book.figures import results as figures


def test_gains_stand_beside_what_the_paper_prints():
    methods = {"out": {"paper": [5.4], "augmented": [1.0, 2.0], "not augmented": [-1.0]}, "mid": {"paper": [2.7]}}
    figure = figures.gains_beside_the_paper({"a network": methods, "another": methods}, lambda values: (0.5, 2.5))
    for axis in figure.axes:
        by_shape = {line.get_marker(): line for line in axis.get_lines() if line.get_marker() in "Dos"}
        assert [list(by_shape[shape].get_xdata()) for shape in "Dos"] == [[5.4, 2.7], [1.5], [-1.0]]
        bars = [
            list(line.get_xdata()) for line in axis.get_lines() if line.get_lw() == 1.5 and len(line.get_xdata()) == 2
        ]
        assert [0.5, 2.5] in bars
        assert [label.get_text() for label in axis.get_yticklabels()] == ["out", "mid"]
        assert axis.yaxis_inverted()
    assert len(figure.legends[0].get_texts()) == 3
