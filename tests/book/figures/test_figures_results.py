"""Figures of the results: what is drawn is what was given."""

from imcl_book.figures import results as figures


def test_paired_differences_by_case_share_a_scale():
    cases = {"A": {"out": [-1.0, -2.0]}, "B": {"out": [3.0, 4.0], "mid": [0.0, 1.0]}}
    figure = figures.paired_differences_by_case(cases)
    assert [axis.get_title(loc="left") for axis in figure.axes] == list(cases)
    for axis, differences in zip(figure.axes, cases.values(), strict=True):
        rings = [list(line.get_xdata()) for line in axis.get_lines() if line.get_marker() == "o"]
        assert rings == list(differences.values())
        assert axis.get_xlim() == figure.axes[0].get_xlim()
    assert [bool(axis.get_xlabel()) for axis in figure.axes] == [False, True]
