"""The page to decide by: gains with their bounds, prices beside them."""

import math

import pandas as pd
from imcl_book.figures import should_i_use_it as figures


def test_gains_stand_beside_their_prices_and_few_seeds_are_hollow():
    rows = [
        {"network and data": "a", "method": "out", "n": 3, "gain": 1.0, "lower": 0.5, "upper": 1.5, "time": 1.1},
        {"network and data": "a", "method": "kd", "n": 1, "gain": 2.0, "lower": None, "upper": None, "time": math.nan},
        {"network and data": "b", "method": "mid", "n": 2, "gain": 0.0, "lower": -1.0, "upper": 1.0, "time": 2.0},
    ]
    found = pd.DataFrame([row | {"memory": 0.9999 + i / 100} for i, row in enumerate(rows)])
    figure = figures.gains_and_prices(found, ["a", "b"])
    gains, times, memory, *_ = figure.axes
    points = {line.get_label(): line for line in gains.get_lines()}
    assert (points["out"].get_xdata()[0], points["out"].get_ydata()[0], points["kd"].get_ydata()[0]) == (1.0, 0, 1)
    assert (points["out"].get_fillstyle(), points["kd"].get_fillstyle()) == ("full", "none")
    assert [list(line.get_xdata()) for line in gains.get_lines()].count([0.5, 1.5]) == 1
    assert [text.get_text() for text in gains.get_yticklabels()] == ["out", "kd"]
    assert [text.get_text() for text in times.texts] == ["1.10"]  # the other is not measured
    assert [text.get_text() for text in memory.texts] == ["1.00", "1.01"]
    assert all(text.get_position()[0] > 0 and text.xy[0] >= 1 for text in memory.texts)  # right of the bar
    assert [axis.get_title(loc="left") for axis in figure.axes[::3]] == ["a", "b"]
