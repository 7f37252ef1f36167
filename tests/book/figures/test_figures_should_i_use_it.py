"""The figure of the page to decide by."""

import math

import pandas as pd
from imcl_book.figures import should_i_use_it as figures


def test_gains_stand_over_two_prices_and_few_seeds_are_hollow():
    rows = [
        {"network and data": "a", "method": "out", "n": 3, "gain": 1.0, "lower": 0.5, "upper": 1.5},
        {"network and data": "a", "method": "kernel", "n": 1, "gain": 2.0, "lower": math.nan, "upper": math.nan},
        {"network and data": "b", "method": "mid", "n": 2, "gain": 0.0, "lower": -1.0, "upper": 1.0},
    ]
    prices = [{"operations": 1.0 + i / 10, "memory": 1.0 + i / 100} for i in range(3)]
    found = pd.DataFrame([row | price for row, price in zip(rows, prices, strict=True)])
    figure = figures.gain_against_price(found, ["a", "b"])
    first, second, third, _ = figure.axes
    points = {line.get_label(): line for line in first.get_lines()}
    assert (points["out"].get_xdata()[0], points["out"].get_ydata()[0]) == (1.0, 1.0)
    assert (points["out"].get_fillstyle(), points["kernel"].get_fillstyle()) == ("full", "none")
    assert [list(line.get_ydata()) for line in first.get_lines()].count([0.5, 1.5]) == 1
    assert {line.get_label(): line for line in second.get_lines()}["kernel"].get_xdata()[0] == 1.01
    assert "mid" in {line.get_label() for line in third.get_lines()}
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["baseline", "out", "kernel", "mid"]
