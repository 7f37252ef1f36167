"""The figures of the results: what first seeds showed stands beside what fresh ones do."""

from imcl_book.figures import results as figures


def test_first_seeds_are_hollow_and_fresh_ones_filled_on_the_line_of_their_method():
    cases = {"a": {"out": (1.0, 2.0), "mid + kernel": (3.0, -1.0)}, "b": {"kernel": (0.5, 0.5)}}
    figure = figures.fresh_seeds(cases)
    assert [axis.get_title(loc="left") for axis in figure.axes] == ["a", "b"]
    upper, _ = figure.axes
    assert [text.get_text() for text in upper.get_yticklabels()] == ["out", "mid + kernel"]
    rings = [line for line in upper.get_lines() if line.get_marker() == "o"]
    points = [(ring.get_fillstyle(), *ring.get_xdata(), *ring.get_ydata()) for ring in rings]
    assert points == [
        ("none", 1.0, 0), ("full", 2.0, 0), ("none", 3.0, 1), ("full", -1.0, 1),
        ("none",), ("full",),  # of the legend
    ]  # fmt: skip
    assert rings[0].get_markersize() > rings[1].get_markersize()  # so that one does not hide the other
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["the first seeds", "fresh seeds"]
