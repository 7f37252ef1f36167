"""The figures of the results: what first seeds showed stands beside what fresh ones do."""

from imcl_book.figures import results as figures


def test_first_seeds_are_hollow_and_fresh_ones_filled_on_the_line_of_their_method():
    cases = {"a": {"out": (1.0, 2.0), "mid + kernel": (3.0, -1.0)}, "b": {"kernel": (0.5, 0.5)}}
    figure = figures.fresh_seeds(cases)
    assert [axis.get_title(loc="left") for axis in figure.axes] == ["a", "b"]
    upper, _ = figure.axes
    assert [text.get_text() for text in upper.get_yticklabels()] == ["out", "mid + kernel"]
    points = [(line.get_label(), line.get_fillstyle(), line.get_xdata()[0], line.get_ydata()[0])
              for line in upper.get_lines() if line.get_marker() == "o"]  # fmt: skip
    assert points == [
        ("the first seeds", "none", 1.0, 0), ("fresh seeds", "full", 2.0, 0),
        ("the first seeds", "none", 3.0, 1), ("fresh seeds", "full", -1.0, 1),
    ]  # fmt: skip
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["the first seeds", "fresh seeds"]
